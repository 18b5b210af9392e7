"""The monitoring room: what is written while a model trains."""
