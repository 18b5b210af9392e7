"""The private interfaces of other libraries that this product uses, one module a library; nothing else uses any."""
