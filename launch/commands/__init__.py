"""The commands, one file each: each file here is a command."""
