"""Aligned columns whose last one is a sentence: it stands in the row where it fits, else in a line under it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich.text import Text

Row = tuple[Sequence[Text], Text]
"""The cells, and the sentence that explains them (empty when there is nothing to say)."""


def align(
    header: Sequence[str], rows: Sequence[Row], right: Collection[str], width: int, indent: int
) -> Iterator[Text]:
    """Yield the lines of a table: the header's names (the last one is the sentence's), then the rows.

    The columns named in `right` are right-aligned. When the sentences don't fit into `width`, all of them go under
    their rows; when even the cells don't fit, the first cell gets a line of its own.
    """
    names = header[:-1]
    cells = [[Text(name, style="dim") for name in names], *(list(row) for row, _ in rows)]
    widths = [max(row[index].cell_len for row in cells) for index in range(len(names))]
    sentence_len = max((sentence.cell_len for _, sentence in rows), default=0)
    gap = 2 if indent + sum(widths) + 2 * len(names) <= width else 1
    cells_len = indent + sum(widths) + gap * (len(names) - 1)
    beside = cells_len + gap + max(sentence_len, len(header[-1])) <= width
    alone = cells_len > width
    sentences = [Text(header[-1], style="dim") if beside else Text(), *(sentence for _, sentence in rows)]
    for row, sentence in zip(cells, sentences, strict=True):
        padded = [_pad(cell, widths[i], names[i] in right) for i, cell in enumerate(row)]
        if alone:
            yield _line(row[:1], indent, gap)
            yield _line(padded[1:], indent + 2, gap)
        else:
            yield _line([*padded, sentence] if beside else padded, indent, gap)
        if sentence and not beside:
            yield _line([Text("why: "), sentence], indent + 2, 0)


def _pad(cell: Text, width: int, right: bool) -> Text:
    blank = " " * (width - cell.cell_len)
    return Text.assemble(blank, cell) if right else Text.assemble(cell, blank)


def _line(parts: Sequence[Text], indent: int, gap: int) -> Text:
    line = Text(" " * indent) + Text(" " * gap).join(parts)
    line.rstrip()
    return line
