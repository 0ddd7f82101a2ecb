"""Untrusted files and names: tables of how each is built, who opens it (parsers.py), and the error it must give."""
