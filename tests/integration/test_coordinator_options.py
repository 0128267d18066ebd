"""What `muster-coordinator` can't be told is one sentence that names the option, before anything is opened."""

import pytest

from coordinator.__main__ import main


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--listen", "nonsense"], "--listen nonsense isn't an address: give HOST:PORT, such as 127.0.0.1:7450"),
        (["--listen", "127.0.0.1:70000"], "--listen 127.0.0.1:70000 isn't an address: give HOST:PORT, such as 127.0.0.1:7450"),
        (["--http-listen", "7451"], "--http-listen 7451 isn't an address: give HOST:PORT, such as 127.0.0.1:7451"),
        (
            ["--http-listen", "0.0.0.0:7451"],
            (
                "--http-listen 0.0.0.0:7451 isn't loopback, and anyone who can reach it could do anything: "
                "keep to 127.0.0.1, or add --insecure-listen if the network is yours alone"
            ),
        ),
        (["--shards", "0"], "--shards 0 is out of range: give 1 to 1024"),
        (["--shards", "100000"], "--shards 100000 is out of range: give 1 to 1024"),
        (["--lease", "nan"], "--lease nan is out of range: give 0.1 to 86400 seconds"),
        (["--lease", "1e-9"], "--lease 1e-09 is out of range: give 0.1 to 86400 seconds"),
        (["--session-grace", "inf"], "--session-grace inf is out of range: give 0.1 to 86400 seconds"),
        (["--ack-timeout", "-1"], "--ack-timeout -1 is out of range: give 0.1 to 86400 seconds"),
        (["--max-live-tasks", "0"], "--max-live-tasks 0 is too few: give 1 or more"),
        (["--snapshot-after", "0"], "--snapshot-after 0 is too few: give 1 or more"),
        (["--store-memory", "1000000"], "--store-memory 1000000 is too few: give 33554432 or more"),
        (["--max-live-bytes", "-5"], "--max-live-bytes -5 is too few: give 1 or more"),
        (["--max-pending-webhooks", "0"], "--max-pending-webhooks 0 is too few: give 1 or more"),
        (
            ["--webhook-allow", "10.0.0.0/8", "--webhook-allow", "10.0.0.1/8"],
            "--webhook-allow: 10.0.0.1/8 is no network (10.0.0.1/8 has host bits set): give one such as 10.0.0.0/8 or fd00::/8",
        ),
        (["--durability", "wait-replicas"], "--durability wait-replicas is no mode: give store, or wait-replicas:N with N from 1 to 16"),
        (
            ["--durability", "wait-replicas:0"],
            "--durability wait-replicas:0 is no mode: give store, or wait-replicas:N with N from 1 to 16",
        ),
        (
            ["--durability", "wait-replicas:1"],
            "--durability wait-replicas:1 needs a store with replicas, which the embedded one hasn't: give --redis-url",
        ),
        (["--key-prefix", "{x}"], "--key-prefix: the key prefix '{x}' must not be empty or contain braces"),
        (["--key-prefix", ""], "--key-prefix: the key prefix '' must not be empty or contain braces"),
    ],
)
def test_a_wrong_option_is_said(tmp_path, capsys, options, sentence):
    with pytest.raises(SystemExit) as ended:
        main(["--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"muster-coordinator: {sentence}\n"
    assert not (tmp_path / "data").exists()
