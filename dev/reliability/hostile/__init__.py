"""Tables of hostile files and names: by name who opens it (`parsers`), how it is made, and the error it must give."""
