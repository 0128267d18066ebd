"""The guards of core and engine, each with what stands in its place once it is removed."""

from tests.mutation_row import Mutation
from tests.mutation_rows_breakers import BREAKER_MUTATIONS
from tests.mutation_rows_cluster import CLUSTER_MUTATIONS
from tests.mutation_rows_core import CORE_MUTATIONS
from tests.mutation_rows_engine import ENGINE_MUTATIONS
from tests.mutation_rows_forwarding import FORWARDING_MUTATIONS
from tests.mutation_rows_lost import LOST_MUTATIONS
from tests.mutation_rows_operations import OPERATION_MUTATIONS
from tests.mutation_rows_pause import PAUSE_MUTATIONS
from tests.mutation_rows_queues import QUEUE_MUTATIONS
from tests.mutation_rows_state import STATE_ENGINE_MUTATIONS
from tests.mutation_rows_state_service import STATE_SERVICE_MUTATIONS
from tests.mutation_rows_time import TIME_MUTATIONS
from tests.mutation_rows_webhooks import WEBHOOK_MUTATIONS

MUTATIONS: list[Mutation] = [
    *CORE_MUTATIONS,
    *QUEUE_MUTATIONS,
    *TIME_MUTATIONS,
    *OPERATION_MUTATIONS,
    *PAUSE_MUTATIONS,
    *BREAKER_MUTATIONS,
    *ENGINE_MUTATIONS,
    *CLUSTER_MUTATIONS,
    *LOST_MUTATIONS,
    *WEBHOOK_MUTATIONS,
    *STATE_ENGINE_MUTATIONS,
    *STATE_SERVICE_MUTATIONS,
    *FORWARDING_MUTATIONS,
]
