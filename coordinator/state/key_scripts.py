"""Keys, their events, leases and transactions, in Lua: a part of the script in `scripts`, which uses what the parts before it define."""

from typing import Final

# Keys, their events, and leases. Places in an entry: 33 flag, 34 lease, 42 time to live, 50 length of the value, 54 what has lengths.
KEYS_AND_LEASES: Final = """
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
local function in_history(key, packed_id, n) return pack('>I2', #key) .. key .. packed_id .. pack('>I4', n) end

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
  call('XADD', EVENTS, id, 'e', '\\1' .. before .. NOW .. pack('>I2', #key) .. key .. whole)
  call('ZADD', HISTORY, 0, in_history(key, packed_id, n))
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

-- Loads the entries of keys into seen.
local function load(keys)
  for from = 1, #keys, 1000 do
    local to = min(from + 999, #keys)
    local entries = call('HMGET', ENTRIES, unpack(keys, from, to))
    for i = from, to do
      if seen[keys[i]] == nil then seen[keys[i]] = entries[i - from + 1] end
    end
  end
end
-- Removes those of the keys that are there, in this revision, whose next event is the nth. Answers the number of the event after them.
-- Many keys go with few calls: only the events are a call each.
local function remove(keys, kind, author, n)
  local id, packed_id = format('%.0f-', revision), pack('>I8', revision)
  for from = 1, #keys, 500 do
    local gone, apart, leased, ending, history = {}, {}, {}, {}, {}
    for i = from, min(from + 499, #keys) do
      local key = keys[i]
      local entry = entry_of(key)
      if entry then
        call('XADD', EVENTS, id .. n, 'e', kind .. sub(entry, 1, 8) .. NOW .. pack('>I2', #key) .. key .. author)
        gone[#gone + 1] = key
        history[#history + 1] = 0
        history[#history + 1] = in_history(key, packed_id, n)
        if byte(entry, 33) == 66 then apart[#apart + 1] = key end
        local lease = sub(entry, 34, 41)
        if lease ~= ZERO then leased[#leased + 1] = lease .. key end
        if sub(entry, 42, 49) ~= ZERO then ending[#ending + 1] = 'k' .. key end
        bytes = bytes - size_of(key, entry)
        seen[key] = false
        n = n + 1
      end
    end
    if #gone > 0 then
      call('ZADD', HISTORY, unpack(history))
      call('HDEL', ENTRIES, unpack(gone))
      call('ZREM', INDEX, unpack(gone))
    end
    if #apart > 0 then call('HDEL', VALUES, unpack(apart)) end
    if #leased > 0 then call('ZREM', LEASE_KEYS, unpack(leased)) end
    if #ending > 0 then call('ZREM', DEADLINES, unpack(ending)) end
  end
  return n
end

local function lease_range(lease) return '[' .. lease, '(' .. pack('>I8', unpack_at('>I8', lease) + 1) end
local function end_lease(lease, kind, author)
  local from, to = lease_range(lease)
  local members = call('ZRANGEBYLEX', LEASE_KEYS, from, to)
  revision = revision + 1
  local keys = {}
  for i = 1, #members do keys[i] = sub(members[i], 9) end
  load(keys)
  remove(keys, kind, author, 0)
  call('HDEL', LEASES, lease)
  call('ZREM', DEADLINES, 'l' .. lease)
  return #members
end

-- Loads the entries of all keys with a prefix into seen, and answers the keys.
local function load_prefix(prefix)
  local keys = call('ZRANGEBYLEX', INDEX, '[' .. prefix, '(' .. prefix .. '\\255')
  load(keys)
  return keys
end
"""

TRANSACTION: Final = """
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
  if max_read - room > batch_room then return verdict(READ_TOO_LARGE, 0, batch_room) end
  batch_room = batch_room - max_read + room
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
      n = remove(doomed[i] or (kind == 68 and {key}) or {}, '\\2', author, n)
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
