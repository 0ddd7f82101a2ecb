"""For `stream`."""
