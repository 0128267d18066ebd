"""The scripts of the register of coordinators: who lives, and since when nothing was heard of whom."""

from typing import Final

from coordinator.journal.scripts import Script

RENEW_MEMBER: Final = Script("""#!lua flags=allow-oom
-- Says that a coordinator lives. KEYS: members. ARGV: its id, its incarnation, for how many ms, what it says of itself (JSON), 1 if this
-- incarnation says so for the first time, then its host and the address that it is bound to there.
-- Answers all that live, each with for how many ms more and what it says; or TAKEN, and what another incarnation with this id says. One
-- that had the same address on the same host can't live any more: the address is bound by this one.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[1])
local live, dead = {}, {}
for i = 1, #all, 2 do
  local stop, said = string.match(all[i + 1], '^(%d+) (.*)$')
  local left = tonumber(stop or '0') - now
  if left <= 0 then
    dead[#dead + 1] = all[i]
  elseif all[i] ~= ARGV[1] then
    live[#live + 1], live[#live + 2] = left, said
  else
    local other = cjson.decode(said)
    local replaced = ARGV[5] == '1' and other.host == ARGV[6] and other.listen == ARGV[7]
    if other.incarnation ~= ARGV[2] and not replaced then return {'TAKEN', said} end
  end
end
if #dead > 0 then redis.call('HDEL', KEYS[1], unpack(dead)) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[3]) .. ' ' .. ARGV[4])
redis.call('PEXPIRE', KEYS[1], 100 * ARGV[3])
live[#live + 1], live[#live + 2] = tonumber(ARGV[3]), ARGV[4]
return live
""")

LEAVE: Final = Script("""#!lua flags=allow-oom
-- A coordinator lives no more. KEYS: members. ARGV: its id, its incarnation.
local said = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%d+ (.*)$')
if said and cjson.decode(said).incarnation == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
""")
