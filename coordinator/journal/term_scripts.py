"""The scripts that search ended tasks by their terms, and that clear the terms of what has expired: see `layout` and `scripts`."""

from typing import Final

from coordinator.journal.scripts import Script

_PARSE = """
local function parse(entry)
  local position, count = string.match(entry, '^(%d+)%+?(%d*)$')
  return tonumber(position), count == '' and 1 or tonumber(count)
end
"""

# With a million lines held, and an entry for each: 0.3 ms for 100 lines, 2 ms for 1,000, on 2 cores of a machine with other work.
FIND_ENDED: Final = Script(
    "#!lua flags=no-writes"
    + _PARSE
    + """
-- A page of the lines that are found by terms. KEYS: list, counters, then the lists of terms, group by group. ARGV: position to end before,
-- or '' for the end; how many lines at most; then how many terms each group has. The group that seems to find least is taken.
-- Answers base, the position from which on all lines are found so, then the positions, the latest first, and the lines.
local limit = tonumber(ARGV[2])
local counters = redis.call('HMGET', KEYS[2], 'base', 'indexed')
local base = tonumber(counters[1] or '0')
local stop = base + redis.call('LLEN', KEYS[1])
local indexed = math.max(base, tonumber(counters[2] or stop))
if ARGV[1] ~= '' then stop = math.min(stop, tonumber(ARGV[1])) end

local function estimate(key)
  local last, tasks = redis.call('LRANGE', key, -8, -1), 0
  for i = 1, #last do
    local _, count = parse(last[i])
    tasks = tasks + count
  end
  return #last == 0 and 0 or redis.call('LLEN', key) * tasks / #last
end
local from, to, fewest, key = nil, nil, nil, 3
for i = 3, #ARGV do
  local found, next_key = 0, key + tonumber(ARGV[i])
  for one = key, next_key - 1 do found = found + estimate(KEYS[one]) end
  if not fewest or found < fewest then from, to, fewest = key, next_key - 1, found end
  key = next_key
end

local found = {}
for one = from, to do
  local low, high = 0, redis.call('LLEN', KEYS[one])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if parse(redis.call('LINDEX', KEYS[one], middle)) < stop then low = middle + 1 else high = middle end
  end
  local left = limit
  while low > 0 and left > 0 do
    local entries = redis.call('LRANGE', KEYS[one], math.max(0, low - 64), low - 1)
    for i = #entries, 1, -1 do
      local first, count = parse(entries[i])
      for position = math.min(first + count, stop) - 1, math.max(first, indexed), -1 do
        found[#found + 1] = position
        left = left - 1
        if left == 0 then break end
      end
      if left == 0 then break end
    end
    low = low - #entries
    if low > 0 and #entries > 0 and parse(entries[1]) < indexed then break end
  end
end
table.sort(found, function(a, b) return a > b end)
local positions, lines = {}, {}
local i, n = 1, math.min(limit, #found)
while i <= n do
  local last = i
  while last < n and found[last + 1] == found[last] - 1 do last = last + 1 end
  local some = redis.call('LRANGE', KEYS[1], found[last] - base, found[i] - base)
  for k = #some, 1, -1 do
    positions[#positions + 1], lines[#lines + 1] = found[last] + k - 1, some[k]
  end
  i = last + 1
end
return {base, indexed, positions, lines}
"""
)

DEAD_TERMS: Final = Script("""#!lua flags=no-writes
-- The terms whose lists begin with an entry of expired lines. KEYS: counters, terms. ARGV: how many at most.
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. (redis.call('HGET', KEYS[1], 'base') or '0'), 'LIMIT', 0, ARGV[1])
""")

CLEAR_TERMS: Final = Script(
    "#!lua flags=allow-oom"
    + _PARSE
    + """
-- Removes the entries of expired lines. KEYS: head, counters, terms, then the lists of some terms. ARGV: token, then these terms.
-- Answers how many lists it went over: none when the shard has another owner.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local base = tonumber(redis.call('HGET', KEYS[2], 'base') or '0')
for i = 4, #KEYS do
  local entry = redis.call('LINDEX', KEYS[i], 0)
  while entry do
    local first, count = parse(entry)
    if first + count > base then
      redis.call('ZADD', KEYS[3], string.format('%.0f', first + count - 1), ARGV[i - 2])
      break
    end
    redis.call('LPOP', KEYS[i])
    entry = redis.call('LINDEX', KEYS[i], 0)
  end
  if not entry then redis.call('ZREM', KEYS[3], ARGV[i - 2]) end
end
return #KEYS - 3
"""
)

DROP_NAMESPACE: Final = Script("""#!lua flags=allow-oom
-- Removes what is left of a namespace without ended tasks. KEYS: head, list, counters, terms. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] or redis.call('LLEN', KEYS[2]) > 0 then return 0 end
return redis.call('UNLINK', KEYS[3], KEYS[4])
""")
