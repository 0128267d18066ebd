"""`muster submit --wait` doesn't leave anybody guessing."""

from agent_node import Agent, Client
from agent_node.cli.submit_command import say_why_it_waits
from agent_node.testing import local_coordinator, muster_in_process


async def test_a_task_that_nobody_can_take_is_explained_on_stderr(capsys):
    async with local_coordinator() as address, Client(address) as client:
        handle = await client.submit("nobody")
        await say_why_it_waits(client, handle, after_s=0.01)
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "It waits because no connected agent offers nobody.\n")


async def test_nothing_is_said_of_a_task_that_ended(capsys):
    agent = Agent("greeter")

    @agent.handler("greet")
    async def greet(ctx):
        return b"hello"

    async with muster_in_process(agent) as client:
        handle = await client.submit("greet")
        await say_why_it_waits(client, handle, after_s=10)
        assert (await handle.result()).payload == b"hello"
        assert capsys.readouterr().err == ""
