"""The commands, one file each: a file here is a command, and nothing else lies here."""
