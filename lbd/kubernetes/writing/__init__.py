"""Who writes, what is to be written, and the writing."""
