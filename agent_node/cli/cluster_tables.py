"""The coordinators of a store and its shards as tables."""

from muster.v1 import admin_pb2
from rich.console import Group
from rich.text import Text

from agent_node.cli.tables import new_table
from agent_node.cli.times import NONE, local_time


def cluster_tables(view: admin_pb2.GetClusterResponse) -> Group:
    """Coordinators, then shards; the one that answered has a star."""
    coordinators = new_table("coordinator", "address", "shards", "state", "host", "since")
    for one in view.coordinators:
        name = f"{one.coordinator_id} *" if one.coordinator_id == view.coordinator_id else one.coordinator_id
        state = Text("leaving", "yellow") if one.leaving else Text("serving", "green")
        coordinators.add_row(Text(name), Text(one.address), str(one.shards), state, Text(one.host), local_time(one.start_time))
    shards = new_table("shard", "owner", "state", "since", "epoch", "commits", "snapshot at")
    for shard in view.shards:
        if not shard.coordinator_id:
            shards.add_row(str(shard.number), NONE, Text("nobody's", "bold red"), NONE, NONE, NONE, NONE)
            continue
        state = Text("serving", "green") if shard.serving else Text("recovering", "yellow")
        shards.add_row(
            str(shard.number),
            Text(shard.coordinator_id),
            state,
            local_time(shard.claim_time),
            str(shard.epoch),
            str(shard.sequence),
            str(shard.snapshot_sequence) if shard.snapshot_sequence else NONE,
        )
    return Group(coordinators, shards)
