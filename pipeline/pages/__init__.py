"""HTML pages without external resources: theme, elements, plots and images of the benchmark page and the report."""
