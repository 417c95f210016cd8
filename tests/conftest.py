"""What all tests may ask for."""

from tests.servers import empty_store, new_database, new_place, new_store, one_store, pooler, server

__all__ = ["empty_store", "new_database", "new_place", "new_store", "one_store", "pooler", "server"]
