"""What all tests may ask for."""

from hypothesis import HealthCheck, settings

from tests.servers import empty_store, new_database, new_place, new_store, one_store, pooler, server

__all__ = ["empty_store", "new_database", "new_place", "new_store", "one_store", "pooler", "server"]

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
