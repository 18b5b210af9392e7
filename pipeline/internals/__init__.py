"""Private interfaces of other libraries, one module a library; no other module uses any."""
