"""What `muster admin check` finds in a deployment's store, and in its coordinator's memory: it must be nothing."""

from agent_node import Client, UnavailableError
from coordinator.admin.access import Where
from coordinator.admin.checking import LiveDigest
from coordinator.admin.tools import check_store
from tests.e2e.deployment import START_S, Deployment
from tests.support.admin_stores import nothing
from tests.support.eventually import eventually


async def assert_consistent(deployment: Deployment, client: Client) -> None:
    """Checks everything that the store holds, and the coordinator's memory."""

    async def ask(number: int) -> LiveDigest:
        async def answer() -> object:
            try:
                return await client.shard_digest(number)
            except UnavailableError:  # it takes a snapshot
                return None

        said = await eventually(answer, within_s=START_S, message=f"the digest of shard {number}")
        return LiveDigest(said.sequence, said.epoch, said.digest, said.release)

    where = Where(data_dir=deployment.data_dir, redis_url=None)
    findings = await check_store(where, shards=(), live=ask, progress=nothing)
    print("checked:", dict(findings.looked_at), *findings.skipped)
    assert not findings.violations, [one.message for one in findings.violations]
    assert not findings.skipped
