// An agent of Muster: one stream on which it registers, takes work, says that it lives, and answers for what became of it.
// All it knows comes from protos/muster/v1/agent.proto. Usage: node dist/agent.js [NAME]
import { randomUUID } from "node:crypto";
import type { ClientDuplexStream, StatusObject } from "@grpc/grpc-js";
import { ADDRESS, channel, metadata, milliseconds, pause } from "./connection.js";
import * as wire from "./gen/muster/v1/agent.js";
import type { Progress, TaskSpec } from "./gen/muster/v1/common.js";
import { capabilities, type Ending, perform } from "./handlers.js";

/** A task's execution, held until its result is answered. Its signal is aborted with the ending that a stopped handler has. */
interface Attempt {
  readonly id: { taskId: string; fence: bigint };
  readonly abort: AbortController;
  progress?: Progress;
  ending?: Ending; // once the handler is done
  batchId?: bigint; // of the last message that carried its ending
}

const CAPACITY = 10;
const keyOf = ({ taskId, fence }: Attempt["id"]): string => `${fence} ${taskId}`;

class Agent {
  readonly #nonce = randomUUID(); // one per process: with it, a new stream continues the old session
  readonly #held = new Map<string, Attempt>();
  #call?: ClientDuplexStream<wire.ConnectRequest, wire.ConnectResponse>;
  #timer?: NodeJS.Timeout;
  #failures = 0; // streams in a row that ended before their Welcome
  #silent = 0; // Renews in a row without a RenewAck
  #batchId = 0n;
  drainReason = "";

  constructor(private readonly name: string, private address: string) {}

  readonly #isDone = () => this.drainReason !== "" && this.#held.size === 0;
  readonly #send = (message: wire.DeepPartial<wire.ConnectRequest>) => this.#call?.write(wire.ConnectRequest.fromPartial(message));

  /** Serves until drained. Throws when trying again can't help, such as when another process has taken the name. */
  async run(): Promise<void> {
    while (!this.#isDone()) {
      const end = await this.#stream();
      if (!this.#isDone()) await pause(end, this.#failures++);
    }
  }

  /** Takes nothing new, finishes what runs, or gives it back at the deadline; then run() returns. */
  drain(reason: string, deadlineMs = 30_000): void {
    if (this.drainReason) return;
    this.drainReason = reason || "drain";
    this.#send({ ready: { limit: 0 }, drain: { reason } });
    const returned: Ending = { $case: "returned", value: { reason } };
    setTimeout(() => this.#held.forEach(({ abort }) => abort.abort(returned)), deadlineMs);
    setTimeout(() => process.exit(1), deadlineMs + 5_000).unref(); // a handler won't stop, or nobody answers its result
    this.#leaveWhenDone();
  }

  /** One stream, from Hello to the status that ends it. */
  async #stream(): Promise<StatusObject> {
    const client = new wire.AgentServiceClient(this.address, ...channel);
    const call = (this.#call = client.connect(metadata));
    this.#timer = setTimeout(() => call.cancel(), 10_000); // a Welcome takes milliseconds
    call.on("data", (message: wire.ConnectResponse) => this.#receive(message));
    call.on("error", () => {}); // the status says it all
    this.#send({
      hello: {
        agentName: this.name,
        sessionNonce: this.#nonce,
        capabilities, maxConcurrentTasks: CAPACITY,
        protocolVersion: 1, sdk: "example-typescript/0.1.0",
        inFlight: [...this.#held.values()].map(({ id }) => id),
      },
    });
    const end = await new Promise<StatusObject>((resolve) => call.on("status", resolve));
    clearTimeout(this.#timer);
    this.#call = undefined; // until the next Hello tells all that matters
    client.close();
    return end;
  }

  #receive(message: wire.ConnectResponse): void {
    if (message.welcome) this.#welcomed(message.welcome);
    for (const each of message.reconcile?.attempts ?? []) {
      if (each.verdict === wire.ReconcileVerdict.RECONCILE_VERDICT_DROP) this.#drop(each);
      if (each.verdict === wire.ReconcileVerdict.RECONCILE_VERDICT_CANCEL) this.#cancel(each);
    }
    if (message.welcome) this.#held.forEach((attempt) => this.#report(attempt)); // results whose answers got lost
    if (message.assign) this.#send({ acknowledgedBatchIds: [message.assign.batchId] });
    for (const { task, fence } of message.assign?.assignments ?? []) if (task) void this.#perform(task, fence);
    if (message.renewAck) this.#silent = 0;
    for (const each of message.renewAck?.exceptions ?? []) {
      if (each.verdict === wire.RenewVerdict.RENEW_VERDICT_LOST) this.#drop(each);
      if (each.verdict === wire.RenewVerdict.RENEW_VERDICT_CANCEL) this.#cancel(each);
    }
    for (const each of message.cancels) each.lost ? this.#drop(each) : this.#cancel(each, each.reason);
    for (const ack of message.resultAcks) {
      for (const [key, { batchId }] of this.#held) if (batchId === ack.batchId) this.#held.delete(key); // any verdict will do
      for (const refused of ack.exceptions) console.error(`result ${wire.ResultVerdict[refused.verdict]}: ${refused.message}`);
    }
    if (message.drain) this.drain(message.drain.reason, milliseconds(message.drain.deadline) || undefined);
    if (message.goAway) this.address = message.goAway.address || this.address;
    if (message.goAway) this.#call?.cancel(); // run() connects again, and keeps what runs
    this.#leaveWhenDone();
  }

  #welcomed(terms: wire.Welcome): void {
    this.#failures = this.#silent = 0;
    this.#send(this.drainReason ? { drain: { reason: this.drainReason } } : { ready: { limit: CAPACITY } });
    clearTimeout(this.#timer);
    this.#timer = setInterval(() => {
      if (this.#silent++ >= 2) return this.#call?.cancel(); // nobody is there: try another stream
      const running = [...this.#held.values()].filter(({ ending }) => !ending);
      const attempts = running.map(({ id, abort, progress }) => ({ ...id, progress, cancelDelivered: abort.signal.aborted }));
      this.#send({ renew: { attempts } });
    }, milliseconds(terms.renewPeriod));
  }

  async #perform(task: TaskSpec, fence: bigint): Promise<void> {
    const attempt: Attempt = { id: { taskId: task.taskId, fence }, abort: new AbortController() };
    this.#held.set(keyOf(attempt.id), attempt);
    attempt.ending = await perform(task, attempt.abort.signal, (current, total) => (attempt.progress = { current, total, message: "" }));
    this.#report(attempt);
  }

  /** One result a message: then none is over 3.5 MiB. */
  #report(attempt: Attempt): void {
    if (!attempt.ending || !this.#held.has(keyOf(attempt.id))) return; // it still runs, or nobody wants its result
    attempt.batchId = ++this.#batchId;
    this.#send({ results: { batchId: attempt.batchId, results: [{ ...attempt.id, outcome: { result: attempt.ending } }] } });
  }

  #cancel(id: Attempt["id"], reason = "cancelled"): void {
    this.#held.get(keyOf(id))?.abort.abort({ $case: "cancelled", value: { reason } } satisfies Ending);
  }

  #drop(id: Attempt["id"]): void {
    this.#cancel(id);
    this.#held.delete(keyOf(id));
  }

  #leaveWhenDone(): void {
    if (!this.#isDone()) return;
    this.#call?.end();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#call?.cancel(), 1_000);
  }
}

const agent = new Agent(process.argv[2] ?? "typescript", ADDRESS);
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => (agent.drainReason ? process.exit(1) : agent.drain(signal)));
await agent.run().then(() => process.exit(0));
