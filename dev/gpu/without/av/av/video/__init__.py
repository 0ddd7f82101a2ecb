"""For `reformatter`."""
