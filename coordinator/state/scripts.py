"""The script that changes shared state, atomic on the server. Owns the Lua; what it reads and writes is told in `layout`.

A script that fails midway keeps what it wrote, so each command checks everything of it before its first write, and what a writing command
writes first is an event, whose id the server refuses unless it is above every other. All keys are declared, and share their shard's tag.

There are two of it. WRITE is refused as a whole by a server without memory, before it runs; WRITE_FULL is then run instead, which refuses
what would make the store larger command by command, and does the rest: so a full store can still be emptied.
"""

from typing import Final

from coordinator.journal.scripts import Script
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
-- Answers APPLIED, ALREADY_MINE or FENCED, the time in ms, and but for FENCED revision, incarnation, next deadline, verdicts.
local call, pack, unpack_at = redis.call, struct.pack, struct.unpack
local sub, byte, format, max, min, floor = string.sub, string.byte, string.format, math.max, math.min, math.floor
local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
if call('HGET', KEYS[1], 'token') ~= ARGV[1] then return {'FENCED', now} end
local meta = call('HMGET', META, 'version', 'nonce', 'incarnation', 'revision', 'compact', 'bytes', 'place', 'extended', 'generation',
  'since', 'era', 'began')
if tonumber(meta[1] or VERSION) > VERSION then
  return redis.error_reply('NEWER shared state has format ' .. meta[1] .. ', and this release reads up to ' .. VERSION)
end
local function next_due() return call('ZRANGE', DEADLINES, 0, 0, 'WITHSCORES')[2] or '' end
if meta[2] == ARGV[2] then return {'ALREADY_MINE', now, meta[4], meta[3], next_due(), call('GET', LAST) or ''} end

local known_revision, full, max_keys, max_bytes, max_deletes, max_locks, max_waiters, max_leases, max_lease_keys, max_read, max_kept,
  keep_revisions, keep_ms = unpack_at('>I8I8I8I8I8I8I8I8I8I8I8I8I8', ARGV[3])
local incarnation, revision, compact = meta[3] or ARGV[2], tonumber(meta[4] or 0), tonumber(meta[5] or 1)
local bytes, place, extended = tonumber(meta[6] or 0), tonumber(meta[7] or 0), tonumber(meta[8] or 0)
local generation, since, era, began = tonumber(meta[9] or 0), tonumber(meta[10] or now), tonumber(meta[11] or 0), tonumber(meta[12] or 0)
if revision < known_revision then  -- the store has lost writes
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
  local kept = KEPT[generation % 2]
  if sequence < client.last then
    local later = call('HGET', kept, ring(name, sequence))
    if later and unpack_at('>I8', later) > sequence then return end
  end
  client.last, client.changed = max(client.last, sequence), true
  call('HSET', kept, ring(name, sequence), pack('>I8', sequence) .. answer)
end
"""

# Keys, their events, and leases. Places in an entry: 33 flag, 34 lease, 42 time to live, 50 length of the value, 54 what has lengths.
_KEYS: Final = """
local function entry_of(key)
  local entry = seen[key]
  if entry == nil then
    entry = call('HGET', ENTRIES, key)
    seen[key] = entry
  end
  return entry
end
local function value_of(key, entry)
  if byte(entry, 33) == 66 then return call('HGET', VALUES, key) end
  return sub(entry, #entry - unpack_at('>I4', entry, 50) + 1)
end
local function size_of(key, entry) return #key + unpack_at('>I4', entry, 50) end
local function write_event(key, id, packed_id, n, event)
  call('XADD', EVENTS, id, 'e', event)
  call('ZADD', HISTORY, 0, pack('>I2', #key) .. key .. packed_id .. pack('>I4', n))
end

-- Operations: P or B sets a key, and p or b leaves its end as it is; B and b are of a value that is kept apart. D deletes a key, X those
-- with a prefix, R reads a key.
local function is_put(kind) return kind == 80 or kind == 66 or kind > 96 end
local function put(key, op, value, id, packed_id, n)
  local entry, keeps_end = entry_of(key), byte(op) > 96
  local before, create, version, lease, ttl = ZERO, packed_id, ONE, ZERO, ZERO
  if entry then
    before, create, lease, ttl = sub(entry, 1, 8), sub(entry, 9, 16), sub(entry, 34, 41), sub(entry, 42, 49)
    version = pack('>I8', unpack_at('>I8', entry, 17) + 1)
    bytes = bytes - unpack_at('>I4', entry, 50) + #value
  else
    bytes = bytes + #key + #value
  end
  if keeps_end then op = string.upper(sub(op, 1, 1)) .. lease .. ttl .. sub(op, 18) end
  local written = create .. version .. NOW
  local stored = packed_id .. written .. op
  local whole = stored .. value
  local inline = byte(op) == 80
  if inline then stored = whole end
  write_event(key, id, packed_id, n, '\\1' .. before .. NOW .. pack('>I2', #key) .. key .. whole)
  call('HSET', ENTRIES, key, stored)
  if not inline then
    call('HSET', VALUES, key, value)
  elseif entry and byte(entry, 33) == 66 then
    call('HDEL', VALUES, key)
  end
  if not entry then call('ZADD', INDEX, 0, key) end
  local new_lease, new_ttl = sub(op, 2, 9), sub(op, 10, 17)
  if lease ~= new_lease then
    if lease ~= ZERO then call('ZREM', LEASE_KEYS, lease .. key) end
    if new_lease ~= ZERO then call('ZADD', LEASE_KEYS, 0, new_lease .. key) end
  end
  if keeps_end then
    -- its deadline is as it was
  elseif new_ttl ~= ZERO then
    call('ZADD', DEADLINES, now + unpack_at('>I8', new_ttl), 'k' .. key)
  elseif ttl ~= ZERO then
    call('ZREM', DEADLINES, 'k' .. key)
  end
  seen[key] = stored
  return written .. new_lease
end

local function remove(key, kind, author, id, packed_id, n)
  local entry = entry_of(key)
  local lease = sub(entry, 34, 41)
  write_event(key, id, packed_id, n, kind .. sub(entry, 1, 8) .. NOW .. pack('>I2', #key) .. key .. author)
  call('HDEL', ENTRIES, key)
  if byte(entry, 33) == 66 then call('HDEL', VALUES, key) end
  call('ZREM', INDEX, key)
  if lease ~= ZERO then call('ZREM', LEASE_KEYS, lease .. key) end
  if sub(entry, 42, 49) ~= ZERO then call('ZREM', DEADLINES, 'k' .. key) end
  bytes = bytes - size_of(key, entry)
  seen[key] = false
end

local function lease_range(lease) return '[' .. lease, '(' .. pack('>I8', unpack_at('>I8', lease) + 1) end
local function end_lease(lease, kind, author)
  local from, to = lease_range(lease)
  local members = call('ZRANGEBYLEX', LEASE_KEYS, from, to)
  revision = revision + 1
  local packed_id = pack('>I8', revision)
  for i = 1, #members do
    remove(sub(members[i], 9), kind, author, format('%.0f-%d', revision, i - 1), packed_id, i - 1)
  end
  call('HDEL', LEASES, lease)
  call('ZREM', DEADLINES, 'l' .. lease)
  return #members
end

-- Loads the entries of all keys with a prefix into seen, and answers the keys.
local function load_prefix(prefix)
  local keys = call('ZRANGEBYLEX', INDEX, '[' .. prefix, '(' .. prefix .. '\\255')
  for from = 1, #keys, 1000 do
    local to = min(from + 999, #keys)
    local entries = call('HMGET', ENTRIES, unpack(keys, from, to))
    for i = from, to do
      if seen[keys[i]] == nil then seen[keys[i]] = entries[i - from + 1] end
    end
  end
  return keys
end
"""

_TRANSACTION: Final = """
local function holds(compare, key)
  local entry = entry_of(key)
  local target, wanted = byte(compare), sub(compare, 2)
  if target == 4 then return entry and value_of(key, entry) == wanted end
  if not entry then return wanted == ZERO end
  if target == 5 then return wanted == ONE end
  local from = target == 1 and 1 or target == 2 and 9 or 17
  return sub(entry, from, from + 7) == wanted
end

-- What the operations from one argument to another would do: a refusal, or nil, what they read, how many they delete, the keys of each
-- prefix by its argument, and whether they put.
local function weigh(from, to)
  local reads, room, deleted, puts, grown, larger = {}, max_read, 0, false, 0, 0
  local doomed, unknown, joining = {}, nil, nil
  local i = from
  while i < to do
    local op, key = ARGV[i], ARGV[i + 1]
    local kind = byte(op)
    if is_put(kind) then
      local entry, size = entry_of(key), #ARGV[i + 2]
      puts = true
      if entry then
        larger = larger + size - unpack_at('>I4', entry, 50)
      else
        grown, larger = grown + 1, larger + size + #key
      end
      local lease = sub(op, 2, 9)
      if kind < 96 and lease ~= ZERO then
        if call('HEXISTS', LEASES, lease) == 0 then unknown = unknown or unpack_at('>I8', lease) end
        if not entry or sub(entry, 34, 41) ~= lease then
          joining = joining or {}
          joining[lease] = (joining[lease] or 0) + 1
        end
      end
      i = i + 3
    else
      if kind == 82 then -- R
        local entry = entry_of(key)
        if entry then
          room = room - size_of(key, entry)
          if room >= 0 then
            if byte(entry, 33) == 66 then entry = entry .. call('HGET', VALUES, key) end
            reads[#reads + 1] = pack('>I2', #key) .. key .. pack('>I4', #entry) .. entry
          end
        end
      elseif kind == 68 then -- D
        local entry = entry_of(key)
        if entry then deleted, larger = deleted + 1, larger - size_of(key, entry) end
      elseif deleted <= max_deletes then -- X
        deleted = deleted + call('ZLEXCOUNT', INDEX, '[' .. key, '(' .. key .. '\\255')
        if deleted <= max_deletes then
          local keys = load_prefix(key)
          for j = 1, #keys do larger = larger - size_of(keys[j], seen[keys[j]]) end
          doomed[i] = keys
        end
      end
      i = i + 2
    end
  end
  if room < 0 then return verdict(READ_TOO_LARGE, 0, max_read) end
  if deleted > max_deletes then return verdict(TOO_MANY_DELETED, 0, max_deletes) end
  if puts then
    if full == 1 then return verdict(STORE_FULL) end
    if unknown then return verdict(LEASE_NOT_FOUND, 0, unknown) end
    for lease, count in pairs(joining or {}) do
      if call('ZLEXCOUNT', LEASE_KEYS, lease_range(lease)) + count > max_lease_keys then return verdict(LEASE_FULL, 0, max_lease_keys) end
    end
    if grown > deleted then
      local keys = call('HLEN', ENTRIES)
      if keys + grown - deleted > max_keys then return verdict(TOO_MANY_KEYS, 0, keys) end
    end
    if larger > 0 and bytes + larger > max_bytes then return verdict(TOO_MANY_BYTES, 0, bytes) end
  end
  return nil, reads, deleted, doomed, puts
end

local function transact(author, first_lock, first_compare, first_then, first_else, stop)
  for i = first_lock, first_compare - 1, 2 do
    local lock = call('HGET', LOCKS, ARGV[i])
    if not lock or sub(lock, 1, 8) ~= ARGV[i + 1] then return with_holder(LOCK_LOST, lock), false end
  end
  local outcome, from, to = DONE, first_then, first_else
  for i = first_compare, first_then - 1, 2 do
    if not holds(ARGV[i], ARGV[i + 1]) then
      outcome, from, to = COMPARE_FAILED, first_else, stop
      break
    end
  end
  local refused, reads, deleted, doomed, puts = weigh(from, to)
  if refused then return refused, false end
  local flags, read = 0, ''
  if #reads > 0 then flags, read = 2, pack('>I2', #reads) .. table.concat(reads) end
  if not puts and deleted == 0 then return verdict(outcome, 0, 0, flags, 0, read), false end
  revision = revision + 1
  local packed_id, n, written, count = pack('>I8', revision), 0, '', 0
  local i = from
  while i < to do
    local op, key = ARGV[i], ARGV[i + 1]
    local kind = byte(op)
    if is_put(kind) then
      written = written .. put(key, op, ARGV[i + 2], format('%.0f-%d', revision, n), packed_id, n)
      n, count, i = n + 1, count + 1, i + 3
    else
      local keys = doomed[i] or (kind == 68 and {key}) or {}
      for j = 1, #keys do
        if entry_of(keys[j]) then
          remove(keys[j], '\\2', author, format('%.0f-%d', revision, n), packed_id, n)
          n = n + 1
        end
      end
      i = i + 2
    end
  end
  return verdict(outcome, revision, deleted, flags, count, written .. read), true
end

local function transaction(head)
  local _, sequence, locks, compares, then_length, else_length = unpack_at('>c1I8I2I2I4I4', head)
  local name = ARGV[a]
  local first_lock = a + 1
  local first_compare = first_lock + 2 * locks
  local first_then = first_compare + 2 * compares
  local first_else = first_then + then_length
  a = first_else + else_length
  local answer = sequence > 0 and repeated(name, sequence)
  if answer then return answer end
  local wrote
  answer, wrote = transact(sub(head, 22), first_lock, first_compare, first_then, first_else, a)
  if wrote and sequence > 0 then keep(name, sequence, answer) end
  return answer
end

local function grant_lease(head)
  local _, sequence, ttl = unpack_at('>c1I8I8', head)
  local name = ARGV[a]
  a = a + 1
  local answer = sequence > 0 and repeated(name, sequence)
  if answer then return answer end
  local leases = call('HLEN', LEASES)
  if leases >= max_leases then return verdict(TOO_MANY_LEASES, 0, leases) end
  if full == 1 then return verdict(STORE_FULL) end
  revision = revision + 1
  local lease = pack('>I8', revision)
  call('HSET', LEASES, lease, pack('>I8', ttl))
  call('ZADD', DEADLINES, now + ttl, 'l' .. lease)
  answer = verdict(DONE, revision)
  if sequence > 0 then keep(name, sequence, answer) end
  return answer
end

local function keep_lease(head)
  local lease = sub(head, 2, 9)
  local ttl = call('HGET', LEASES, lease)
  if not ttl then return verdict(LEASE_NOT_FOUND) end
  call('ZADD', DEADLINES, now + unpack_at('>I8', ttl), 'l' .. lease)
  return verdict(DONE)
end

local function revoke_lease(head)
  local _, sequence = unpack_at('>c1I8', head)
  local lease, name = sub(head, 10, 17), ARGV[a]
  a = a + 1
  local answer = sequence > 0 and repeated(name, sequence)
  if answer then return answer end
  if call('HEXISTS', LEASES, lease) == 0 then return verdict(LEASE_NOT_FOUND) end
  local ended = end_lease(lease, '\\2', sub(head, 18))
  answer = verdict(DONE, revision, ended)
  if sequence > 0 then keep(name, sequence, answer) end
  return answer
end
"""

# Places in a holder: 1 token, 9 whether confirmed, 10 time to live, 18 since, 26 what has lengths.
_LOCKS: Final = """
local function line_of(name)
  local first = sized(name)
  return first, '[' .. first, '(' .. first .. '\\255'
end
local function begin_lease(name, lock, ttl)
  call('HSET', LOCKS, name, sub(lock, 1, 8) .. '1' .. ttl .. sub(lock, 18))
  call('ZADD', DEADLINES, now + unpack_at('>I8', ttl), 'h' .. name)
  return verdict(DONE, (unpack_at('>I8', lock)))
end
local function leave(first, waiter, waiting)
  call('ZREM', LINE, first .. sub(waiting, 1, 8) .. waiter)
  call('HDEL', PLACES, first .. waiter)
  call('ZREM', DEADLINES, 'w' .. first .. waiter)
end
local function pass_on(name)
  local first, from, to = line_of(name)
  call('ZREM', DEADLINES, 'h' .. name)
  local member = call('ZRANGEBYLEX', LINE, from, to, 'LIMIT', 0, 1)[1]
  if not member then
    call('HDEL', LOCKS, name)
    call('ZREM', LOCK_INDEX, name)
    return
  end
  local waiter = sub(member, #first + 9)
  local waiting = call('HGET', PLACES, first .. waiter)
  leave(first, waiter, waiting)
  revision = revision + 1
  local token = pack('>I8', revision)
  call('HSET', LOCKS, name, token .. '0' .. sub(waiting, 9, 16) .. NOW .. sized(waiter) .. sized(sub(waiting, 25)))
  call('ZADD', DEADLINES, now + CONFIRM_MS, 'h' .. name)
  grants[#grants + 1] = sized(name) .. sized(waiter) .. token
end

local function acquire(head)
  local _, wait, ttl = unpack_at('>c1BI8', head)
  local packed_ttl, author = sub(head, 3, 10), sub(head, 11)
  local name, waiter = ARGV[a], ARGV[a + 1]
  a = a + 2
  local lock = call('HGET', LOCKS, name)
  if not lock then
    if full == 1 then return verdict(STORE_FULL) end
    local locks = call('HLEN', LOCKS)
    if locks >= max_locks then return verdict(TOO_MANY_LOCKS, 0, locks) end
    revision = revision + 1
    call('ZADD', LOCK_INDEX, 0, name)
    return begin_lease(name, pack('>I8', revision) .. '1' .. packed_ttl .. NOW .. sized(waiter) .. sized(author), packed_ttl)
  end
  if sub(lock, 28, 27 + unpack_at('>I2', lock, 26)) == waiter then return begin_lease(name, lock, packed_ttl) end
  local first, from, to = line_of(name)
  local waiting = call('HGET', PLACES, first .. waiter)
  if not waiting then
    if wait == 0 then return with_holder(WAITING, lock, call('ZLEXCOUNT', LINE, from, to)) end
    if full == 1 then return verdict(STORE_FULL) end
    local waiters = call('HLEN', PLACES)
    if waiters >= max_waiters then return verdict(TOO_MANY_WAITERS, 0, waiters) end
    place = place + 1
    waiting = pack('>I8', place) .. packed_ttl .. NOW
    call('ZADD', LINE, 0, first .. sub(waiting, 1, 8) .. waiter)
  end
  call('HSET', PLACES, first .. waiter, sub(waiting, 1, 8) .. packed_ttl .. sub(waiting, 17, 24) .. author)
  call('ZADD', DEADLINES, now + ttl, 'w' .. first .. waiter)
  return with_holder(WAITING, lock, call('ZLEXCOUNT', LINE, from, '(' .. first .. sub(waiting, 1, 8)))
end

local function keep_lock(head)
  local name = ARGV[a]
  a = a + 1
  local lock = call('HGET', LOCKS, name)
  if not lock or sub(lock, 1, 8) ~= sub(head, 2) then return with_holder(LOCK_LOST, lock) end
  return begin_lease(name, lock, sub(lock, 10, 17))
end

local function release(head)
  local token, name, waiter = sub(head, 2), ARGV[a], ARGV[a + 1]
  a = a + 2
  local lock = call('HGET', LOCKS, name)
  if token ~= ZERO then
    if not lock or sub(lock, 1, 8) ~= token then return with_holder(LOCK_LOST, lock) end
  else
    local first = sized(name)
    local waiting = call('HGET', PLACES, first .. waiter)
    if waiting then
      leave(first, waiter, waiting)
      return verdict(DONE)
    end
    if not lock or sub(lock, 28, 27 + unpack_at('>I2', lock, 26)) ~= waiter then return verdict(NOT_WAITING) end
  end
  pass_on(name)
  return with_grants(0, 0, 0)
end
"""

_UPKEEP: Final = """
local function split(member)
  local length = unpack_at('>I2', member, 2)
  return sub(member, 2, 3 + length), sub(member, 4 + length)
end
local function ttl_of(member)
  local kind, rest = byte(member), sub(member, 2)
  if kind == 107 then return unpack_at('>I8', call('HGET', ENTRIES, rest), 42) end -- k
  if kind == 108 then return unpack_at('>I8', call('HGET', LEASES, rest)) end -- l
  if kind == 119 then return unpack_at('>I8', call('HGET', PLACES, rest), 9) end -- w
  local lock = call('HGET', LOCKS, rest)
  return byte(lock, 9) == 49 and unpack_at('>I8', lock, 10) or CONFIRM_MS
end
local function expire(head)
  local _, limit, latest = unpack_at('>c1I8I8', head)
  latest = min(latest, now)
  local gone_over, ended, at = 0, 0, 0
  while true do
    local first = call('ZRANGE', DEADLINES, 0, 0, 'WITHSCORES')
    local member = first[1]
    if not member or tonumber(first[2]) > latest then return with_grants(at, ended, 0) end
    if gone_over >= limit then return with_grants(at, ended, 1) end
    local later = extended + ttl_of(member)
    local kind, rest, count = byte(member), sub(member, 2), 1
    if later > latest then
      call('ZADD', DEADLINES, later, member)
    else
      if kind == 107 then
        revision = revision + 1
        at = revision
        remove(rest, '\\3', '', format('%.0f-0', revision), pack('>I8', revision), 0)
      elseif kind == 108 then
        count = max(end_lease(rest, '\\3', ''), 1)
        at = revision
      elseif kind == 104 then
        pass_on(rest)
      else
        local name, waiter = split(member)
        leave(name, waiter, call('HGET', PLACES, rest))
      end
      ended = ended + count
    end
    gone_over = gone_over + count
  end
end

local function compaction(head)
  local _, wanted, limit = unpack_at('>c1I8I8', head)
  if wanted > revision then return verdict(FUTURE_REVISION, 0, revision) end
  if wanted > 0 and wanted < compact then return verdict(COMPACTED, 0, compact) end
  compact = max(compact, wanted > 0 and wanted or revision - keep_revisions + 1)
  local oldest = wanted > 0 and 0 or now - keep_ms
  local removed, size, done = 0, 0, false
  while not done and removed < limit and size < 4194304 do
    local events = call('XRANGE', EVENTS, '-', '+', 'COUNT', min(16, limit - removed))
    local behind
    for i = 1, #events do
      local id, event = events[i][1], events[i][2][2]
      local at, n = string.match(id, '^(%d+)-(%d+)$')
      at = tonumber(at)
      local date, length = unpack_at('>I8I2', event, 10)
      if at >= compact and date >= oldest then
        done = true
        break
      end
      compact = max(compact, at + 1)
      call('ZREM', HISTORY, sub(event, 18, 19 + length) .. pack('>I8I4', at, tonumber(n)))
      removed, size = removed + 1, size + #event
      behind = format('%.0f-%d', at, n + 1)
    end
    if behind then call('XTRIM', EVENTS, 'MINID', '=', behind) end
    if #events == 0 then done = true end
  end
  return verdict(DONE, 0, removed, done and 0 or 1)
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
return {'APPLIED', now, format('%.0f', revision), incarnation, next_due(), verdicts}
"""

_BODY: Final = _NAMES + _BEGIN + _KEYS + _TRANSACTION + _LOCKS + _UPKEEP + _RUN

WRITE: Final = Script(f"#!lua\n{_BODY}")
WRITE_FULL: Final = Script(f"#!lua flags=allow-oom\n{_BODY}")
