"""The Memphis client: usable without the worker."""
