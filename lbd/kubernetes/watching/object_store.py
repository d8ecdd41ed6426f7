"""What is known of a collection of objects, and which of them a list or an event changes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.fields import UnusableError, key_of
from lbd.kubernetes.objects.kinds import KubernetesObject, ObjectKey
from lbd.kubernetes.objects.parse import Unusable
from lbd.kubernetes.watching.watch_events import GARBAGE, EventType, WatchEvent

T = TypeVar("T", bound=KubernetesObject)

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class ObjectStore(Generic[T]):
    """The last good state of a collection. An object that can't be used any more stays as it was, and is `unusable`.

    Methods return the keys of the objects that are others now, or can't be used for another reason than before.
    """

    def __init__(self, parse: Callable[[object], T | Unusable], *, namespaced: bool) -> None:
        self._parse = parse
        self._namespaced = namespaced
        self._objects: dict[ObjectKey, T] = {}
        self._raw: dict[ObjectKey, dict[str, Any]] = {}
        self._unusable: dict[ObjectKey, Unusable] = {}
        self._versions: dict[ObjectKey, object] = {}
        self.objects: Mapping[ObjectKey, T] = MappingProxyType(self._objects)
        self.raw: Mapping[ObjectKey, dict[str, Any]] = MappingProxyType(self._raw)
        self.unusable: Mapping[ObjectKey, Unusable] = MappingProxyType(self._unusable)

    def name(self, raw: Mapping[str, Any]) -> ObjectKey:
        """Return the key of an object.

        Raises:
            ApiError: it has none.
        """
        metadata = raw.get("metadata")
        try:
            return key_of(metadata if isinstance(metadata, dict) else {}, namespaced=self._namespaced)
        except UnusableError as error:
            raise ApiError(200, GARBAGE, f"an object without a name: {error}") from error

    def apply(self, event: WatchEvent) -> frozenset[ObjectKey]:
        """Take over what a watch says.

        Raises:
            ApiError: the object has no name; nothing has changed.
        """
        if event.type is EventType.BOOKMARK:
            return frozenset()
        key = self.name(event.object)
        if event.type is EventType.DELETED:
            return self._remove(key)
        return self.put(key, event.object)

    def put(self, key: ObjectKey, raw: dict[str, Any]) -> frozenset[ObjectKey]:
        """Take over an object. It belongs to the store from now on, which takes out of it what nobody needs."""
        version = raw["metadata"].get("resourceVersion")
        if version is not None and self._versions.get(key) == version:
            return frozenset()
        _trim(raw["metadata"])
        self._versions[key] = version
        parsed = self._parse(raw)
        if isinstance(parsed, Unusable):
            changed = self._unusable.get(key) != parsed
            self._unusable[key] = parsed
            return frozenset((key,)) if changed else frozenset()
        was_unusable = self._unusable.pop(key, None) is not None
        before = self._objects.get(key)
        self._objects[key], self._raw[key] = parsed, raw
        return frozenset((key,)) if was_unusable or parsed != before else frozenset()

    def forget_versions(self) -> None:
        """Believe of no object that it is as the API server has it: what comes is looked at, whatever its version."""
        self._versions = dict.fromkeys(self._versions)

    def keep_only(self, keys: Iterable[ObjectKey]) -> frozenset[ObjectKey]:
        """Remove what is not in a whole list."""
        gone = self._versions.keys() - set(keys)
        for key in gone:
            self._remove(key)
        return frozenset(gone)

    def _remove(self, key: ObjectKey) -> frozenset[ObjectKey]:
        known = self._versions.pop(key, self) is not self
        self._objects.pop(key, None)
        self._raw.pop(key, None)
        self._unusable.pop(key, None)
        return frozenset((key,)) if known else frozenset()


def _trim(metadata: dict[str, Any]) -> None:
    """Take out what can be longer than the object itself, and nobody reads."""
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict):
        annotations.pop(_LAST_APPLIED, None)
