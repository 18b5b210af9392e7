"""The report as one self-contained page: `document` puts it together, a module a section."""
