"""The scripts that change a shard, each atomic on the server. Owns the Lua; knows key names only as arguments.

A Redis script that fails midway keeps what it wrote, so every script checks everything that can be wrong before its first write, and
the head, which says that a commit is there, is written last. What a script may touch is declared in KEYS, as Redis Cluster wants it.

The flags in the first line are Redis 7.0's: without `allow-oom` a script is refused as a whole when memory is full, before it runs.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest by which a server finds it in its cache."""

    source: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


CLAIM: Final = Script("""#!lua flags=allow-oom
-- Takes the shard, and removes half a snapshot. KEYS: head, journal, snapshot a, snapshot b. ARGV: nonce of the new owner, for how many
-- ms it may have the shard without being heard of (0: nobody else can come, and it is taken from whoever has it), its id, its address, and
-- the epoch that it had before (0: none).
-- Answers the epoch, the last sequence, the time in ms, and the snapshot's sequence, pieces and bytes (zeros: there is none); or HELD, by
-- whom, where, and for how many ms more, when another's lease runs, or an offer to another; or an error when head and journal, or head and
-- snapshot, disagree.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] ~= '0' then
  local lease = redis.call('HMGET', KEYS[1], 'owner', 'address', 'lease_until', 'offered_to', 'offered_until')
  local left, offered = tonumber(lease[3] or '0') - now, tonumber(lease[5] or '0') - now
  if left > 0 and lease[1] ~= ARGV[3] then return {'HELD', lease[1], lease[2], left} end
  if offered > 0 and lease[4] ~= ARGV[3] then return {'HELD', lease[4], '', offered} end
end
local head = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'snapshot_key', 'snapshot_sequence', 'snapshot_pieces', 'snapshot_bytes')
local sequence = head[2] or '0'
local last = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
if last ~= sequence .. '-0' then
  return redis.error_reply('CORRUPT the head is at ' .. sequence .. '-0, but the journal ends at ' .. last)
end
local other = {KEYS[3], KEYS[4]}
if head[3] then
  local current = table.remove(other, head[3] == 'a' and 1 or 2)
  local pieces = redis.call('LLEN', current)
  if pieces ~= tonumber(head[5]) then
    return redis.error_reply('CORRUPT the snapshot at ' .. head[4] .. ' has ' .. pieces .. ' pieces, but had ' .. head[5])
  end
end
local epoch = math.max(tonumber(head[1] or '0') + 1, ARGV[5] + 1, now) -- the store may have lost the one that it had before
local epoch_text = string.format('%.0f', epoch)
redis.call('UNLINK', unpack(other))
redis.call('HDEL', KEYS[1], 'unfinished', 'lease_ms', 'lease_until', 'offered_to', 'offered_until')
redis.call('HSET', KEYS[1], 'epoch', epoch_text, 'token', epoch_text .. ':' .. ARGV[1], 'sequence', sequence, 'owner', ARGV[3],
  'address', ARGV[4])
if ARGV[2] ~= '0' then redis.call('HSET', KEYS[1], 'lease_ms', ARGV[2], 'lease_until', string.format('%.0f', now + ARGV[2])) end
return {epoch, tonumber(sequence), now, tonumber(head[4] or '0'), tonumber(head[5] or '0'), tonumber(head[6] or '0')}
""")

# Figures, on 2 cores of a machine with other work, embedded Valkey 9.1 with fsync always, CPU of each side, over a unix socket:
#   a commit of 100 kB that ends no task         0.11 ms here, 0.35 to 0.45 ms in the server: 0.5 us an event at 1,000 events
#   the same, ending 1,000 tasks of 440 bytes    1.5 to 2.2 ms here, 5.1 to 6.1 ms in the server: 7 to 8 us a record
#   a commit of 100 bytes                        0.09 ms here, 0.15 ms in the server, 0.35 ms until it is answered
# MSET takes a seventh less of the server than a SET for each record. Passing the records as one packed argument and unpacking them in Lua
# was within 10 % of passing them as they are, and would hide the keys.
APPEND: Final = Script("""#!lua
-- Writes one commit. KEYS: head, journal, then for each namespace with ended or redriven tasks its list, its counters and its terms, then
-- the lists of terms, then the record keys of all that ended, then of all that were redriven. ARGV: token, sequence, previous sequence,
-- commit nonce, commit, number of namespaces, then for each namespace how many tasks ended, in how many bytes, how many terms they have,
-- and how many tasks were redriven, then for each term its name and which of the tasks have it, then all index lines, then all records.
-- Answers what became of it, and the time in ms. Whoever owns the shard has it for one lease more.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function answer(what) return {what, now} end
local function type_of(key) return redis.call('TYPE', key).ok end

local head = redis.call('HMGET', KEYS[1], 'token', 'sequence', 'nonce', 'lease_ms')
if head[1] ~= ARGV[1] then return answer('FENCED') end
local lease_until = head[4] and string.format('%.0f', now + head[4])
if head[2] == ARGV[2] and head[3] == ARGV[4] then
  redis.call('HSET', KEYS[1], 'nonce', ARGV[4]) -- replicas can be waited for behind a write alone
  if lease_until then redis.call('HSET', KEYS[1], 'lease_until', lease_until) end
  return answer('ALREADY_MINE')
end
if head[2] ~= ARGV[3] then return answer('DIVERGED') end

local namespaces = tonumber(ARGV[6])
local tasks, terms, redriven = 0, 0, 0
for i = 1, namespaces do
  tasks = tasks + tonumber(ARGV[3 + 4 * i])
  terms = terms + tonumber(ARGV[5 + 4 * i])
  redriven = redriven + tonumber(ARGV[6 + 4 * i])
end
local first_list = 3 + 3 * namespaces
local first_key = first_list + terms
local first_gone = first_key + tasks
local first_term = 7 + 4 * namespaces
local first_line = first_term + 2 * terms
if #ARGV ~= first_line - 1 + 2 * tasks then return redis.error_reply('CORRUPT the arguments do not match the counts') end
if #KEYS ~= first_gone - 1 + redriven then return redis.error_reply('CORRUPT the keys do not match the counts') end
local positions, unindexed, gone = {}, {}, {}
local next_gone = first_gone
for i = 1, namespaces do
  local list, set = type_of(KEYS[3 * i]), type_of(KEYS[2 + 3 * i])
  if list ~= 'none' and list ~= 'list' then return redis.error_reply('CORRUPT ' .. KEYS[3 * i] .. ' is a ' .. list) end
  if set ~= 'none' and set ~= 'zset' then return redis.error_reply('CORRUPT ' .. KEYS[2 + 3 * i] .. ' is a ' .. set) end
  local counters = redis.call('HMGET', KEYS[1 + 3 * i], 'bytes', 'base', 'indexed')
  if not string.match(counters[1] or '0', '^%d+$') or not string.match(counters[2] or '0', '^%d+$') then
    return redis.error_reply('CORRUPT ' .. KEYS[1 + 3 * i] .. ' has no numbers')
  end
  positions[i] = tonumber(counters[2] or '0') + redis.call('LLEN', KEYS[3 * i])
  unindexed[i] = not counters[3]
  local lines, size = 0, 0
  for _ = 1, tonumber(ARGV[6 + 4 * i]) do
    local length = redis.call('STRLEN', KEYS[next_gone])
    if length > 0 then lines, size = lines + 1, size + length - 8 end
    next_gone = next_gone + 1
  end
  gone[i] = {lines, size}
end
for i = first_list, first_key - 1 do
  local list = type_of(KEYS[i])
  if list ~= 'none' and list ~= 'list' then return redis.error_reply('CORRUPT ' .. KEYS[i] .. ' is a ' .. list) end
end

-- First the one command that can still be refused: an entry that is not above the journal's last. Lua's unpack ends at about 8,000.
redis.call('XADD', KEYS[2], ARGV[2] .. '-0', 'c', ARGV[5])
for i = first_gone, #KEYS do redis.call('UNLINK', KEYS[i]) end
local records = first_line + tasks
for from = 0, tasks - 1, 2000 do
  local fields, n = {}, 0
  for i = from, math.min(from + 1999, tasks - 1) do
    fields[n + 1], fields[n + 2] = KEYS[first_key + i], ARGV[records + i]
    n = n + 2
  end
  redis.call('MSET', unpack(fields, 1, n))
end
local line, term = first_line, 0
for i = 1, namespaces do
  if unindexed[i] then redis.call('HSET', KEYS[1 + 3 * i], 'indexed', string.format('%.0f', positions[i])) end
  local stop = line + tonumber(ARGV[3 + 4 * i])
  while line < stop do
    local to = math.min(line + 4000, stop)
    redis.call('RPUSH', KEYS[3 * i], unpack(ARGV, line, to - 1))
    line = to
  end
  redis.call('HINCRBY', KEYS[1 + 3 * i], 'bytes', string.format('%.0f', ARGV[4 + 4 * i] - gone[i][2]))
  if gone[i][1] > 0 then redis.call('HINCRBY', KEYS[1 + 3 * i], 'superseded', gone[i][1]) end
  for _ = 1, tonumber(ARGV[5 + 4 * i]) do
    local key, pushed, last = KEYS[first_list + term], 0, nil
    local entries = {}
    for first, count in string.gmatch(ARGV[first_term + 2 * term + 1], '(%d+)%+(%d+)') do
      local position = positions[i] + first
      last = last or position + count - 1
      entries[#entries + 1] = string.format('%.0f', position) .. (count == '1' and '' or '+' .. count)
      if #entries == 4000 then
        pushed = pushed + 4000
        redis.call('RPUSH', key, unpack(entries))
        entries = {}
      end
    end
    local length = #entries > 0 and redis.call('RPUSH', key, unpack(entries)) or pushed
    if length == pushed + #entries then
      redis.call('ZADD', KEYS[2 + 3 * i], string.format('%.0f', last), ARGV[first_term + 2 * term])
    end
    term = term + 1
  end
end
if lease_until then
  redis.call('HSET', KEYS[1], 'sequence', ARGV[2], 'nonce', ARGV[4], 'lease_until', lease_until)
else
  redis.call('HSET', KEYS[1], 'sequence', ARGV[2], 'nonce', ARGV[4])
end
return answer('APPLIED')
""")

# Of a shard at rest, by a coordinator that is alone, every three seconds: 0.1 ms here, less than 0.1 ms in the server.
CONFIRM: Final = Script("""#!lua flags=no-writes
-- What an append would answer. KEYS: head. ARGV: token, last sequence. Answers it, and the time in ms.
local head = redis.call('HMGET', KEYS[1], 'token', 'sequence')
local time = redis.call('TIME')
local what = 'APPLIED'
if head[1] ~= ARGV[1] then what = 'FENCED' elseif head[2] ~= ARGV[2] then what = 'DIVERGED' end
return {what, time[1] * 1000 + math.floor(time[2] / 1000)}
""")

# Of a shard at rest, by one of several coordinators, three times a lease.
RENEW: Final = Script("""#!lua flags=allow-oom
-- As CONFIRM, and whoever owns the shard has it for one lease more.
local head = redis.call('HMGET', KEYS[1], 'token', 'sequence', 'lease_ms')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local what = 'APPLIED'
if head[1] ~= ARGV[1] then what = 'FENCED' elseif head[2] ~= ARGV[2] then what = 'DIVERGED' end
if what == 'APPLIED' and head[3] then redis.call('HSET', KEYS[1], 'lease_until', string.format('%.0f', now + head[3])) end
return {what, now}
""")

RELEASE: Final = Script("""#!lua flags=allow-oom
-- Gives the shard up. KEYS: head. ARGV: token, whom it is offered to (may be ''), for how many ms. Answers 1, or 0 when another owns it.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'token', 'owner', 'address', 'lease_ms', 'lease_until')
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  local stop = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
  redis.call('HSET', KEYS[1], 'offered_to', ARGV[2], 'offered_until', string.format('%.0f', stop))
end
return 1
""")

READ_RECORDS: Final = Script("""#!lua flags=no-writes
-- Records, as many as fit into an answer. KEYS: of the records. ARGV: how many bytes; how many records to answer whatever their size.
-- Answers the values of the first keys, in order, false where there is none.
local room, at_least = tonumber(ARGV[1]), tonumber(ARGV[2])
local values = {}
for i = 1, #KEYS do
  room = room - redis.call('STRLEN', KEYS[i])
  if room < 0 and i > at_least then break end
  values[i] = redis.call('GET', KEYS[i])
end
return values
""")

LIST_ENDED: Final = Script("""#!lua flags=no-writes
-- A page of the index. KEYS: list, counters. ARGV: position to end before, or '' for the end; how many lines at most.
-- Answers the position of the first line, then the lines in order.
local base = tonumber(redis.call('HGET', KEYS[2], 'base') or '0')
local stop = redis.call('LLEN', KEYS[1])
if ARGV[1] ~= '' then stop = math.min(stop, tonumber(ARGV[1]) - base) end
if stop <= 0 then return {base} end
local start = math.max(0, stop - tonumber(ARGV[2]))
return {base + start, redis.call('LRANGE', KEYS[1], start, stop - 1)}
""")

OLDEST_ENDED: Final = Script("""#!lua flags=no-writes
-- What a decision on expiry needs, read at once; a transaction would be refused when memory is full. KEYS: list, counters, terms.
-- ARGV: how many. Answers base, bytes, how many lines are superseded, length, time in ms, the first lines, and how many terms have dead
-- entries.
local counters = redis.call('HMGET', KEYS[2], 'base', 'bytes', 'superseded')
local time = redis.call('TIME')
return {
  tonumber(counters[1] or '0'),
  tonumber(counters[2] or '0'),
  tonumber(counters[3] or '0'),
  redis.call('LLEN', KEYS[1]),
  time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1),
  redis.call('ZCOUNT', KEYS[3], '-inf', '(' .. (counters[1] or '0')),
}
""")

EXPIRE_ENDED: Final = Script("""#!lua flags=allow-oom
-- Removes the oldest ended tasks of a namespace. KEYS: head, list, counters, then the record of each task to remove, in order.
-- ARGV: token, base as the caller read it, then for each task its marker and the size of its record.
-- Answers how many were removed: none when the shard has another owner, or when the index has moved on since it was read.
local tasks = #KEYS - 3
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if (redis.call('HGET', KEYS[3], 'base') or '0') ~= ARGV[2] then return 0 end
if redis.call('LLEN', KEYS[2]) < tasks then return redis.error_reply('CORRUPT the index is shorter than it was') end
local last = {}
local size, superseded = 0, 0
for i = 1, tasks do
  last[i] = redis.call('GETRANGE', KEYS[3 + i], 0, 7) == ARGV[1 + 2 * i]
  if last[i] then size = size + ARGV[2 + 2 * i] else superseded = superseded + 1 end
end
redis.call('LTRIM', KEYS[2], tasks, -1)
redis.call('HINCRBY', KEYS[3], 'base', tasks)
redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', 0 - size))
if superseded > 0 then redis.call('HINCRBY', KEYS[3], 'superseded', 0 - superseded) end
for i = 1, tasks do
  if last[i] then redis.call('UNLINK', KEYS[3 + i]) end
end
return tasks
""")

MARKERS: Final = Script("""#!lua flags=no-writes
-- What stands before records. KEYS: of the records. Answers it for each; nothing where there is none.
local markers = {}
for i = 1, #KEYS do markers[i] = redis.call('GETRANGE', KEYS[i], 0, 7) end
return markers
""")

COUNT_ENDED: Final = Script("""#!lua flags=no-writes
-- How many ended tasks there are. KEYS: list, counters.
return redis.call('LLEN', KEYS[1]) - (redis.call('HGET', KEYS[2], 'superseded') or '0')
""")

PURGE_ENDED: Final = Script("""#!lua flags=allow-oom
-- Removes records, and leaves their lines superseded. KEYS: head, counters, then the records. ARGV: token, then the marker of each.
-- Answers for each whether it is gone by this: 1 or 0.
local gone = {}
local size, superseded = 0, 0
for i = 1, #KEYS - 2 do
  gone[i] = 0
  if redis.call('HGET', KEYS[1], 'token') == ARGV[1] and redis.call('GETRANGE', KEYS[2 + i], 0, 7) == ARGV[1 + i] then
    gone[i] = 1
    superseded, size = superseded + 1, size + redis.call('STRLEN', KEYS[2 + i]) - 8
  end
end
if superseded > 0 then
  redis.call('HINCRBY', KEYS[2], 'bytes', string.format('%.0f', 0 - size))
  redis.call('HINCRBY', KEYS[2], 'superseded', superseded)
  for i = 1, #KEYS - 2 do
    if gone[i] == 1 then redis.call('UNLINK', KEYS[2 + i]) end
  end
end
return gone
""")

UNSLIMMED_ENDED: Final = Script("""#!lua flags=no-writes
-- The oldest lines whose results weren't dropped yet. KEYS: list, counters. ARGV: how many.
-- Answers the first one's position, and the lines.
local counters = redis.call('HMGET', KEYS[2], 'base', 'slimmed')
local base = tonumber(counters[1] or '0')
local first = math.max(base, tonumber(counters[2] or '0'))
return {first, redis.call('LRANGE', KEYS[1], first - base, first - base + ARGV[1] - 1)}
""")

SLIM_ENDED: Final = Script("""#!lua flags=allow-oom
-- Rewrites the oldest records. KEYS: head, list, counters, then the record of each task, in order. ARGV: token, position of the first, then
-- for each task its marker, its new value ('' leaves it), its new line, and by how many bytes the record has shrunk.
-- Answers how many it went over: none when the shard has another owner, or when the index has moved on since it was read.
local tasks = #KEYS - 3
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local counters = redis.call('HMGET', KEYS[3], 'base', 'slimmed')
local base = tonumber(counters[1] or '0')
local first = math.max(base, tonumber(counters[2] or '0'))
if first ~= tonumber(ARGV[2]) then return 0 end
if redis.call('LLEN', KEYS[2]) < first - base + tasks then return redis.error_reply('CORRUPT the index is shorter than it was') end
local shrunk = 0
for i = 1, tasks do
  local at = 4 * i - 1
  if ARGV[at + 1] ~= '' and redis.call('GETRANGE', KEYS[3 + i], 0, 7) == ARGV[at] then
    redis.call('SET', KEYS[3 + i], ARGV[at + 1])
    redis.call('LSET', KEYS[2], first - base + i - 1, ARGV[at + 2])
    shrunk = shrunk + ARGV[at + 3]
  end
end
redis.call('HSET', KEYS[3], 'slimmed', string.format('%.0f', first + tasks))
redis.call('HINCRBY', KEYS[3], 'bytes', string.format('%.0f', 0 - shrunk))
return tasks
""")

# Snapshots. A late call of one that was given up can't do harm: it doesn't name the one in `unfinished`, or it begins that one again, and
# then the pieces of the other are refused.
WRITE_SNAPSHOT: Final = Script("""#!lua
-- Writes a piece of a snapshot. KEYS: head, snapshot a, snapshot b. ARGV: token, its sequence and nonce, the piece's place, the piece.
-- Answers 1 when the piece is there.
local head = redis.call('HMGET', KEYS[1], 'token', 'snapshot_key', 'unfinished')
if head[1] ~= ARGV[1] then return 0 end
local key = KEYS[head[2] == 'a' and 3 or 2]
local name, place = ARGV[2] .. ':' .. ARGV[3], tonumber(ARGV[4])
if head[3] ~= name then
  if place ~= 0 then return 0 end
  redis.call('UNLINK', key)
  redis.call('HSET', KEYS[1], 'unfinished', name)
end
local pieces = redis.call('LLEN', key)
if place > pieces then return 0 end
if place == pieces then redis.call('RPUSH', key, ARGV[5]) end
return 1
""")

FINISH_SNAPSHOT: Final = Script("""#!lua flags=allow-oom
-- Makes the snapshot that is being written the current one. KEYS: head, snapshot a, snapshot b.
-- ARGV: token, its sequence and nonce, its pieces, its bytes. Answers 1 when it is.
local head = redis.call('HMGET', KEYS[1], 'token', 'snapshot_key', 'unfinished', 'sequence', 'snapshot_sequence', 'snapshot_nonce')
if head[1] ~= ARGV[1] then return 0 end
if head[5] == ARGV[2] and head[6] == ARGV[3] then return 1 end
if head[3] ~= ARGV[2] .. ':' .. ARGV[3] or tonumber(ARGV[2]) > tonumber(head[4]) then return 0 end
local place = head[2] == 'a' and 'b' or 'a'
local key = KEYS[place == 'a' and 2 or 3]
if redis.call('LLEN', key) ~= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'snapshot_key', place, 'snapshot_sequence', ARGV[2], 'snapshot_nonce', ARGV[3],
  'snapshot_pieces', ARGV[4], 'snapshot_bytes', ARGV[5])
redis.call('HDEL', KEYS[1], 'unfinished')
redis.call('UNLINK', KEYS[place == 'a' and 3 or 2])
return 1
""")

READ_SNAPSHOT: Final = Script("""#!lua flags=no-writes
-- A piece of the current snapshot. KEYS: head, snapshot a, snapshot b. ARGV: its sequence, the piece's place.
-- Answers false when another is current.
local head = redis.call('HMGET', KEYS[1], 'snapshot_key', 'snapshot_sequence')
if head[2] ~= ARGV[1] then return false end
return redis.call('LINDEX', KEYS[head[1] == 'a' and 2 or 3], ARGV[2])
""")

TRIM_JOURNAL: Final = Script("""#!lua flags=allow-oom
-- Removes the oldest entries that the current snapshot covers. KEYS: head, journal. ARGV: token, how many at most. Answers how many.
local head = redis.call('HMGET', KEYS[1], 'token', 'snapshot_sequence')
if head[1] ~= ARGV[1] or not head[2] then return 0 end
local first = redis.call('XRANGE', KEYS[2], '-', '(' .. string.format('%.0f', tonumber(head[2]) + 1) .. '-0', 'COUNT', 1)
if #first == 0 then return 0 end
local sequence = tonumber(string.match(first[1][1], '^%d+'))
local stop = math.min(sequence + tonumber(ARGV[2]), tonumber(head[2]) + 1)
return redis.call('XTRIM', KEYS[2], 'MINID', string.format('%.0f', stop) .. '-0')
""")
