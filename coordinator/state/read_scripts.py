"""The scripts that read shared state, each as of one moment. Owns the Lua; what it reads is told in `layout`."""

from typing import Final

from coordinator.journal.scripts import Script
from coordinator.state.layout import STATE_VERSION

_BEGIN: Final = f"""#!lua flags=no-writes
local call, pack, unpack_at = redis.call, struct.pack, struct.unpack
local sub, byte, max, min, floor = string.sub, string.byte, math.max, math.min, math.floor
local meta = call('HMGET', KEYS[1], 'version', 'revision', 'compact', 'incarnation', 'bytes')
if tonumber(meta[1] or 0) > {STATE_VERSION} then
  local known = ', and this release reads up to {STATE_VERSION}: start the newer one again'
  return redis.error_reply('NEWER shared state has format ' .. meta[1] .. known)
end
local revision, compact = meta[2] or '0', meta[3] or '1'
"""

_VALUES: Final = """
local function whole(values, key, entry)
  if entry and byte(entry, 33) == 66 then return entry .. call('HGET', values, key) end
  return entry
end
"""

# Of events, the bytes of key and value.
_SIZES: Final = """
local function size_of(event)
  local length = unpack_at('>I2', event, 18)
  if byte(event) ~= 1 then return length end
  return length + unpack_at('>I4', event, 69 + length)
end
"""

GET: Final = Script(
    _BEGIN
    + _VALUES
    + """
-- Entries, as many as fit. KEYS: meta, entries, values. ARGV: how many bytes, then keys.
-- Answers the revision, then for the first keys each its entry, or false.
local answer, room = {revision}, tonumber(ARGV[1])
for from = 2, #ARGV, 100 do
  local to = min(from + 99, #ARGV)
  local entries = call('HMGET', KEYS[2], unpack(ARGV, from, to))
  for i = from, to do
    local entry = entries[i - from + 1]
    if entry then
      room = room - #ARGV[i] - unpack_at('>I4', entry, 50)
      if room < 0 and i > 2 then return answer end
    end
    answer[i] = whole(KEYS[3], ARGV[i], entry)
  end
end
return answer
"""
)

LIST: Final = Script(
    _BEGIN
    + _VALUES
    + """
-- A page of entries. KEYS: meta, entries, values, index. ARGV: where to begin and to end, as ZRANGEBYLEX has it; how many at most, how many
-- bytes, and 1 for entries without their values. Answers the revision, 1 if there are more, then keys and entries in turn.
local start, limit, room, bare = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local answer, found = {revision, 0}, 0
while true do
  local keys = call('ZRANGEBYLEX', KEYS[4], start, ARGV[2], 'LIMIT', 0, min(64, limit - found + 1))
  if #keys == 0 then return answer end
  local entries = call('HMGET', KEYS[2], unpack(keys))
  for i = 1, #keys do
    local size = unpack_at('>I4', entries[i], 50)
    room = room - #keys[i]
    if not bare then room = room - size end
    if found > 0 and (room < 0 or found >= limit) then
      answer[2] = 1
      return answer
    end
    found = found + 1
    answer[2 * found + 1] = keys[i]
    if not bare then
      answer[2 * found + 2] = whole(KEYS[3], keys[i], entries[i])
    elseif byte(entries[i], 33) == 80 then
      answer[2 * found + 2] = sub(entries[i], 1, #entries[i] - size)
    else
      answer[2 * found + 2] = entries[i]
    end
  end
  start = '(' .. keys[#keys]
end
"""
)

EVENTS: Final = Script(
    _BEGIN
    + _SIZES
    + """
-- Events of whole revisions. KEYS: meta, events. ARGV: the revision to begin behind, how many at most, how many bytes.
-- Answers the revision, the first that is kept, 1 if there are more, then ids and events in turn.
local answer, found, limit, room = {revision, compact, 0}, 0, tonumber(ARGV[2]), tonumber(ARGV[3])
if tonumber(ARGV[1]) < tonumber(compact) - 1 then return answer end
local start, count, last, size = '(' .. ARGV[1] .. '-18446744073709551615', min(limit + 1, 8), '', 0
while true do
  local events = call('XRANGE', KEYS[2], start, '+', 'COUNT', count)
  for i = 1, #events do
    local id, event = events[i][1], events[i][2][2]
    local at = string.match(id, '^%d+')
    local bytes = size_of(event)
    room, size = room - bytes, size + #event
    if found > 0 and at ~= last and (found >= limit or room < 0) then
      answer[3] = 1
      return answer
    end
    found, last = found + 1, at
    answer[2 * found + 2], answer[2 * found + 3] = id, event
  end
  if #events < count then return answer end
  start = '(' .. events[#events][1]
  count = max(1, min(512, limit - found + 1, floor(max(room, 0) * found / size)))  -- no more than fit, going by those before
end
"""
)

HISTORY: Final = Script(
    _BEGIN
    + _SIZES
    + """
-- Events of a key. KEYS: meta, events, history. ARGV: the key behind its length, the revision to begin behind, how many at most, how many
-- bytes. Answers as for events.
local prefix, limit, room = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local answer, found = {revision, compact, 0}, 0
local start = '[' .. prefix .. pack('>I8', max(tonumber(ARGV[2]) + 1, tonumber(compact)))
while true do
  local members = call('ZRANGEBYLEX', KEYS[3], start, '(' .. prefix .. '\\255', 'LIMIT', 0, min(64, limit - found + 1))
  if #members == 0 then return answer end
  for i = 1, #members do
    local at, n = unpack_at('>I8I4', members[i], #prefix + 1)
    local id = string.format('%.0f-%.0f', at, n)
    local event = call('XRANGE', KEYS[2], id, id)[1][2][2]
    room = room - size_of(event)
    if found > 0 and (found >= limit or room < 0) then
      answer[3] = 1
      return answer
    end
    found = found + 1
    answer[2 * found + 2], answer[2 * found + 3] = id, event
  end
  start = '(' .. members[#members]
end
"""
)

ENTRY_AT: Final = Script(
    _BEGIN
    + _VALUES
    + """
-- What a write made of a key. KEYS: meta, entries, values, events, history. ARGV: the key, the key behind its length, the revision
-- (8 bytes). Answers the entry, or false.
local entry = call('HGET', KEYS[2], ARGV[1])
if entry and sub(entry, 1, 8) == ARGV[3] then return whole(KEYS[3], ARGV[1], entry) end
local at = unpack_at('>I8', ARGV[3])
if at < tonumber(compact) then return false end
local member = call('ZRANGEBYLEX', KEYS[5], '[' .. ARGV[2] .. ARGV[3], '(' .. ARGV[2] .. pack('>I8', at + 1), 'LIMIT', 0, 1)[1]
if not member then return false end
local id = string.format('%.0f-%.0f', unpack_at('>I8I4', member, #ARGV[2] + 1))
local event = call('XRANGE', KEYS[4], id, id)[1][2][2]
if byte(event) ~= 1 then return false end
return sub(event, 20 + unpack_at('>I2', event, 18))
"""
)

LOCKS: Final = Script(
    _BEGIN
    + """
-- Locks by name. KEYS: meta, locks, lock_index, places, line. ARGV: where to begin and to end, as ZRANGEBYLEX has it; how many at most.
-- Answers for each its name, its holder, and its waiters: ids and places in turn.
local answer = {}
local names = call('ZRANGEBYLEX', KEYS[3], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
for i = 1, #names do
  local first, waiters = pack('>I2', #names[i]) .. names[i], {}
  local line = call('ZRANGEBYLEX', KEYS[5], '[' .. first, '(' .. first .. '\\255')
  for j = 1, #line do
    local waiter = sub(line[j], #first + 9)
    waiters[2 * j - 1], waiters[2 * j] = waiter, call('HGET', KEYS[4], first .. waiter)
  end
  answer[i] = {names[i], call('HGET', KEYS[2], names[i]), waiters}
end
return answer
"""
)

FACTS: Final = Script(
    _BEGIN
    + """
-- The whole. KEYS: meta, entries, deadlines.
-- Answers revision, incarnation, the first revision that is kept, keys, bytes, the next deadline.
return {revision, meta[4] or '', compact, call('HLEN', KEYS[2]), meta[5] or '0', call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or ''}
"""
)

DROP: Final = Script("""#!lua flags=allow-oom
-- Removes a namespace's state: the server frees the memory in the background. KEYS: the shard's head, then all parts. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('UNLINK', unpack(KEYS, 2))
""")
