from both_ways import both_ways, pytest_collection_modifyitems  # noqa: F401
