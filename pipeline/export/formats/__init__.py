"""Export formats, one file each: how it is written, loaded, verified and described."""
