"""Locks and their lines, what ends, and old events, in Lua: a part of the script in `scripts`, behind that of `key_scripts`."""

from typing import Final

# Places in a holder: 1 token, 9 whether confirmed, 10 time to live, 18 since, 26 what has lengths.
LOCKS: Final = """
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

UPKEEP: Final = """
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
        remove({rest}, '\\3', '', 0)
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
