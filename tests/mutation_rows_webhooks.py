"""The guards of webhooks: in the core, in the dispatcher, and at the socket."""

from tests.mutation_row import CORE, ENGINE, Mutation

URLS, SENDER = "coordinator/webhook_urls.py", "coordinator/webhooks/sender.py"

WEBHOOK_MUTATIONS = [
    # What is due
    Mutation("an end makes its own webhook due", CORE + "evolve.py", "if state.hooks or task.spec.webhook is not None:", "if state.hooks:"),
    Mutation("an end makes its type's webhook due", CORE + "evolve.py", "if state.hooks or task.spec.webhook", "if task.spec.webhook"),
    Mutation("only the ends that its own asks for", CORE + "webhooks.py", "if own is not None and task.state in own.states:", "if own:"),
    Mutation("only the ends that a policy asks for", CORE + "webhooks.py", "policy.url and task.state in policy.states:", "policy.url:"),
    Mutation("a policy without a URL only signs", CORE + "webhooks.py", "policy is not None and policy.url and", "policy is not None and"),
    Mutation(
        "whoever delivers is told", CORE + "webhooks.py", "            scheduler.effects.append(WebhookDue(delivery))", "            pass"
    ),
    Mutation("a policy has its share", CORE + "webhooks.py", "deliveries.of_hook[delivery.hook] > share:", "False:"),
    Mutation("own webhooks are never crowded out", CORE + "webhooks.py", "if delivery.hook is not None and deliveries", "if deliveries"),
    Mutation("submits with a webhook have a limit", CORE + "submits.py", "spec.webhook is not None and is_full(scheduler):", "False:"),
    Mutation("those without have none", CORE + "submits.py", "spec.webhook is not None and is_full(scheduler):", "is_full(scheduler):"),
    Mutation("those given up are bounded", CORE + "webhooks.py", "if len(self.given_up) > MAX_GIVEN_UP:", "if False:"),
    Mutation("a retried one is due anew", CORE + "webhooks.py", ".delivery, due_ms=date_ms))", ".delivery))"),
    Mutation("a deleted policy is no hook", CORE + "policies.py", "            del state.hooks[policy.task_type]", "            pass"),
    Mutation("hooks come back with their policies", CORE + "policies.py", "        state.hooks[policy.task_type] = policy", "        pass"),
    Mutation(
        "a restart doesn't reuse a number",
        ENGINE + "recovery.py",
        "state.deliveries.next_number = max(state.deliveries.next_number, namespace.next_delivery)",
        "pass",
    ),
    Mutation("a snapshot has what is due", CORE + "webhooks.py", "[*deliveries.pending.values(), *", "[*"),
    Mutation("a snapshot has what was given up", CORE + "webhooks.py", ", *deliveries.given_up.values()]", "]"),
    # When it is tried
    Mutation(
        "what is pending at a start is delivered",
        ENGINE + "shard.py",
        "if pending := namespace.scheduler.state.deliveries.pending:",
        "if False:",
    ),
    Mutation(
        "only what is still pending is sent", ENGINE + "webhooks.py", "            if not self._is_pending(entry):", "            if False:"
    ),
    Mutation(
        "an answer of a shard before it was rebuilt is dropped",
        ENGINE + "webhooks.py",
        "        if self._is_pending(entry):\n            self._answered",
        "        if True:\n            self._answered",
    ),
    Mutation(
        "nothing is sent while the store is out",
        ENGINE + "webhooks.py",
        "elif self._shards[entry.namespace].outage_since_s is not None:",
        "elif False:",
    ),
    Mutation(
        "it is given up in time", ENGINE + "webhooks.py", "elif self._age_s(entry) >= self._settings.give_up_after_s and", "elif False and"
    ),
    Mutation("but not before it was tried", ENGINE + "webhooks.py", "(entry.attempts or host.failures):", "True:"),
    Mutation(
        "a backoff grows with age",
        ENGINE + "webhooks.py",
        "min(max(age_s, settings.first_backoff_s), settings.max_backoff_s)",
        "settings.first_backoff_s",
    ),
    Mutation(
        "a backoff is bounded",
        ENGINE + "webhooks.py",
        "settings.first_backoff_s), settings.max_backoff_s) *",
        "settings.first_backoff_s), 1e9) *",
    ),
    Mutation("Retry-After is honoured", ENGINE + "webhooks.py", "min(max(backoff_s, retry_after_s),", "min(backoff_s,"),
    Mutation(
        "Retry-After doesn't outlast the end",
        ENGINE + "webhooks.py",
        "max(settings.give_up_after_s - age_s, settings.first_backoff_s))",
        "1e9)",
    ),
    Mutation("a host without an answer rests", ENGINE + "webhooks.py", "            self._pause(host, answer.reason)", "            pass"),
    Mutation(
        "it is asked by one at a time", ENGINE + "webhooks.py", "        host.allowed = 1\n        host.reason", "        host.reason"
    ),
    Mutation("a host has its limit", ENGINE + "webhooks.py", "host.sending < host.allowed and", "True and"),
    Mutation(
        "a host that answers is trusted with more", ENGINE + "webhooks.py", "min(host.allowed + 1, self._settings.at_once_per_host)", "1"
    ),
    Mutation(
        "but not with any number", ENGINE + "webhooks.py", "min(host.allowed + 1, self._settings.at_once_per_host)", "host.allowed + 1"
    ),
    Mutation("all together have a limit", ENGINE + "webhooks.py", "if len(self._sending) >= self._settings.at_once:", "if False:"),
    Mutation(
        "doubtful hosts have a part of it", ENGINE + "webhooks.py", "self._sending_doubtful < self._settings.at_once_doubtful:", "True:"
    ),
    Mutation("steps are bounded", ENGINE + "webhooks.py", "self._let_go(PER_STEP)", "self._let_go(10**9)"),
    Mutation("what waits follows its policy", ENGINE + "webhooks.py", "elif origin_of(target[0]) != host.origin:", "elif False:"),
    Mutation(
        "a fault of ours ends nothing",
        ENGINE + "webhooks.py",
        "except Exception as error:  # a task's root: what",
        "except ZeroDivisionError as error:  # what",
    ),
    Mutation("a hurried one doesn't wait for its host", ENGINE + "webhooks.py", "                entry.host.paused_until_s = 0.0\n", ""),
    # Where it may go
    Mutation(
        "the address of the socket is judged",
        SENDER,
        "        if reason:\n            raise AddressRefused",
        "        if False:\n            raise AddressRefused",
    ),
    Mutation("an answer has its bound", SENDER, "        taken = data[: self._room]", "        taken = data"),
    Mutation("redirects aren't followed", SENDER, "allow_redirects=False", "allow_redirects=True"),
    Mutation("the environment's proxies aren't asked", SENDER, "trust_env=False", "trust_env=True"),
    Mutation("no error repeats the URL", SENDER, "{error.message}", "{error}"),
    Mutation("a request has its time", SENDER, "ClientTimeout(total=total_s, connect=connect_s)", "ClientTimeout(total=60)"),
    Mutation("an IPv4-mapped address is what it maps", URLS, "if address.ipv4_mapped is not None:", "if False:"),
    Mutation("6to4 and Teredo are what they embed", URLS, "[address.sixtofour, *(address.teredo or ())]", "[]"),
    Mutation("NAT64 is what it embeds", URLS, "        embedded.append(ipaddress", "        (ipaddress"),
    Mutation("multicast is refused", URLS, "or address.is_multicast or", "or"),
    Mutation("a cloud's own address is refused", URLS, '    ipaddress.IPv4Network("168.63.129.16/32"),', "    #"),
    Mutation("no mail port", URLS, "if port not in HTTP_PORTS and port < FIRST_FREE_PORT:", "if False:"),
    Mutation("no user names in URLs", URLS, "if parts.username is not None or parts.password is not None:", "if False:"),
    Mutation("secrets are not shown", "coordinator/convert_webhooks.py", '    message.ClearField("secrets")', "    pass"),
    # Whose namespace is gone
    Mutation(
        "a deleted namespace's webhooks are let go", ENGINE + "webhooks.py", "namespace.when_over(partial(self._over, namespace))", "pass"
    ),
    Mutation(
        "so are they before a deletion is durable",
        ENGINE + "shard.py",
        "*self.namespaces.values(), *being_deleted]",
        "*self.namespaces.values()]",
    ),
    Mutation("what is over is known as such", ENGINE + "webhooks.py", " if entry.stage is not _Stage.OVER else None", ""),
    Mutation(
        "a backoff holds no namespace",
        ENGINE + "webhooks.py",
        "del entry.namespace",
        "pass",
    ),
    Mutation(
        "none is sent whose namespace goes just before",
        ENGINE + "webhooks.py",
        """        if not self._is_pending(entry):
            return
        shard, namespace""",
        "        shard, namespace",
    ),
    Mutation(
        "none is sent whose namespace goes while its record is read",
        ENGINE + "webhooks.py",
        """        if not self._is_pending(entry):
            return
        try:""",
        "        try:",
    ),
    Mutation(
        "none backs off whose namespace is gone",
        ENGINE + "webhooks.py",
        """            if self._is_pending(entry):
                self._back_off""",
        """            if True:
                self._back_off""",
    ),
]
