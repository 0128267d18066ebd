"""The script that changes shared state, atomic on the server. Owns the Lua; what it reads and writes is told in `layout`.

A script that fails midway keeps what it wrote, so each command checks everything of it before its first write, and what a writing command
writes first is an event, whose id the server refuses unless it is above every other. All keys are declared, and share their shard's tag.

There are two of it. WRITE is refused as a whole by a server without memory, before it runs; WRITE_FULL is then run instead, which refuses
what would make the store larger command by command, and does the rest: so a full store can still be emptied.
"""

from typing import Final

from coordinator.journal.scripts import Script
from coordinator.state.end_scripts import LOCKS, UPKEEP
from coordinator.state.key_scripts import KEYS_AND_LEASES, TRANSACTION
from coordinator.state.layout import PARTS, STATE_VERSION
from coordinator.state.model import CONFIRM_MS, GENERATIONS_PER_ERA, KEPT_MS, KEPT_PER_CLIENT, Outcome

_NAMES: Final = "\n".join(
    [f"local {part.upper().replace(':', '_')} = KEYS[{place}]" for place, part in enumerate(PARTS, 2)]
    + [f"local {outcome.name} = {outcome.value}" for outcome in Outcome]
    + [
        f"local VERSION, CONFIRM_MS, KEPT_MS = {STATE_VERSION}, {CONFIRM_MS}, {KEPT_MS}",
        f"local PER_ERA, PER_CLIENT = {GENERATIONS_PER_ERA}, {KEPT_PER_CLIENT}",
    ]
)

# What all commands share: the checks of the whole batch, kept verdicts, and verdicts as they are answered.
_BEGIN: Final = """
-- KEYS: the shard's head, then PARTS of layout. ARGV: token, nonce, limits and the like, how many commands, then the commands (`packing`).
-- Answers APPLIED, ALREADY_MINE or FENCED, the time in ms, and but for FENCED revision, incarnation, next deadline, verdicts; and with
-- APPLIED by how many revisions the store was behind what its owner knows.
local call, pack, unpack_at = redis.call, struct.pack, struct.unpack
local sub, byte, format, max, min, floor = string.sub, string.byte, string.format, math.max, math.min, math.floor
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
if call('HGET', KEYS[1], 'token') ~= ARGV[1] then return {'FENCED', now} end
local meta = call('HMGET', META, 'version', 'nonce', 'incarnation', 'revision', 'compact', 'bytes', 'place', 'extended', 'generation',
  'since', 'era', 'began')
if tonumber(meta[1] or VERSION) > VERSION then
  local known = ', and this release reads up to ' .. VERSION .. ': start the newer one again'
  return redis.error_reply('NEWER shared state has format ' .. meta[1] .. known)
end
local function next_due() return call('ZRANGE', DEADLINES, 0, 0, 'WITHSCORES')[2] or '' end
if meta[2] == ARGV[2] then
  call('HSET', META, 'nonce', ARGV[2])  -- replicas can be waited for behind a write alone
  return {'ALREADY_MINE', now, meta[4], meta[3], next_due(), call('GET', LAST) or ''}
end

local known_revision, full, max_keys, max_bytes, max_deletes, max_locks, max_waiters, max_leases, max_lease_keys, max_read,
  batch_room, max_kept,
  keep_revisions, keep_ms = unpack_at('>I8I8I8I8I8I8I8I8I8I8I8I8I8I8', ARGV[3])
local incarnation, revision, compact = meta[3] or ARGV[2], tonumber(meta[4] or 0), tonumber(meta[5] or 1)
local bytes, place, extended = tonumber(meta[6] or 0), tonumber(meta[7] or 0), tonumber(meta[8] or 0)
local generation, since, era, began = tonumber(meta[9] or 0), tonumber(meta[10] or now), tonumber(meta[11] or 0), tonumber(meta[12] or 0)
local lost = max(known_revision - revision, 0)
if lost > 0 then  -- the store has lost writes
  revision, compact, incarnation = known_revision, known_revision + 1, ARGV[2]
end

local KEPT, CLIENTS = {[0] = KEPT_0, [1] = KEPT_1}, {[0] = CLIENTS_0, [1] = CLIENTS_1}
local passed = min(floor((now - since) / KEPT_MS), 2)
if passed <= 0 and call('HLEN', KEPT[generation % 2]) >= max_kept then passed = 1 end
if passed > 0 then
  for _ = 1, passed do
    generation = generation + 1
    call('UNLINK', KEPT[generation % 2])
  end
  since = now
end
if generation - began >= PER_ERA or call('HLEN', CLIENTS[era % 2]) >= max_kept then
  era, began = era + 1, generation
  call('UNLINK', CLIENTS[era % 2])
end

local ZERO, ONE, NOW = pack('>I8', 0), pack('>I8', 1), pack('>I8', now)
local a = 5  -- the next argument
local seen = {}  -- by key: its entry, or false, as this command has found it or left it
local grants = {}  -- of this command

local function sized(text) return pack('>I2', #text) .. text end

-- flags say which parts follow: 1 nothing, but that there is more to do; 2 what was read, 4 grants, 8 a lock's holder.
local function verdict(outcome, at, number, flags, puts, tail)
  return pack('>BBI8I8I2', outcome, flags or 0, at or 0, number or 0, puts or 0) .. (tail or '')
end
local function with_holder(outcome, holder, number)
  if not holder then return verdict(outcome, 0, number) end
  return verdict(outcome, 0, number, 8, 0, sized(holder))
end
local function with_grants(at, number, more)
  if #grants == 0 then return verdict(DONE, at, number, more) end
  return verdict(DONE, at, number, more + 4, 0, pack('>I2', #grants) .. table.concat(grants))
end

local clients = {}
local function client_of(name)
  local client = clients[name]
  if client then return client end
  local packed = call('HGET', CLIENTS[era % 2], name) or call('HGET', CLIENTS[(era + 1) % 2], name)
  client = {last = 0, before = 0, gone = 0}
  if packed then
    local written
    client.last, client.before, client.gone, written = unpack_at('>I8I8I8I8', packed)
    if written < generation then
      client.gone = written == generation - 1 and client.before or client.last
      client.before = client.last
    end
  end
  clients[name] = client
  return client
end
local function ring(name, sequence) return name .. pack('>I2', sequence % PER_CLIENT) end
local function repeated(name, sequence)
  local client = client_of(name)
  if sequence > client.last then return nil end
  local packed = pack('>I8', sequence)
  for one = 0, 1 do
    local kept = call('HGET', KEPT[one], ring(name, sequence))
    if kept and sub(kept, 1, 8) == packed then return sub(kept, 9) end
  end
  if sequence <= max(client.gone, client.last - PER_CLIENT) then return verdict(SEQUENCE_TOO_OLD) end
end
local function keep(name, sequence, answer)
  local client = client_of(name)
  client.last, client.changed = max(client.last, sequence), true
  call('HSET', KEPT[generation % 2], ring(name, sequence), pack('>I8', sequence) .. answer)
end
"""

_RUN: Final = """
local run = {
  T = transaction, G = grant_lease, K = keep_lease, V = revoke_lease, A = acquire, C = keep_lock, U = release, E = expire, M = compaction,
  O = function() extended = now; return verdict(DONE) end,
}
local answers = {}
for i = 1, tonumber(ARGV[4]) do
  local head = ARGV[a]
  a = a + 1
  seen, grants = {}, {}
  answers[i] = run[sub(head, 1, 1)](head)
end
for name, client in pairs(clients) do
  if client.changed then
    call('HSET', CLIENTS[era % 2], name, pack('>I8I8I8I8', client.last, client.before, client.gone, generation))
  end
end
local verdicts = table.concat(answers)
call('SET', LAST, verdicts)
call('HSET', META, 'version', meta[1] or VERSION, 'nonce', ARGV[2], 'incarnation', incarnation, 'revision', revision, 'compact', compact,
  'bytes', bytes, 'place', place, 'extended', extended, 'generation', generation, 'since', since, 'era', era, 'began', began)
return {'APPLIED', now, format('%.0f', revision), incarnation, next_due(), verdicts, lost}
"""

_BODY: Final = _NAMES + _BEGIN + KEYS_AND_LEASES + TRANSACTION + LOCKS + UPKEEP + _RUN

WRITE: Final = Script(f"#!lua\n{_BODY}")
WRITE_FULL: Final = Script(f"#!lua flags=allow-oom\n{_BODY}")
