"""What Redis runs for `chassis.limits`: one round trip each, by Redis's own clock. A count is stored as three numbers:
the start of its window (ms), what the window before counted, what this one has counted so far."""

from chassis.redis_lane import BEGIN

_COUNT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read(stored, window)
  if not stored then return now, 0, 0 end
  local start, before, count = string.match(stored, '(%d+) (%d+) (%d+)')
  start, before, count = tonumber(start), tonumber(before), tonumber(count)
  local passed = math.floor((now - start) / window)
  if passed > 1 then return now, 0, 0 end
  if passed == 1 then return start + window, count, 0 end
  return math.min(start, now), before, count
end

local function write(key, window, start, before, count)
  redis.call('SET', key, string.format('%d %d %d', start, before, count), 'PX', 2 * window)
end
"""

# KEYS: the lane, counts. ARGV: mode ('take', 'charge' in any case, 'look'); limit, window (ms) and cost of each.
# Replies in one text whether it is allowed, then of each: ms since its window began, count of the window before, count.
# One text either way, because that is cheaper to write and read for the client than many small values.
TAKE = (
    BEGIN
    + _COUNT
    + """
local stored = redis.call('MGET', unpack(KEYS, 2))
local allowed, counts, reply, i = 1, {}, {}, 0
for limit, window, cost in string.gmatch(ARGV[2], '(%d+) (%d+) (%d+)') do
  i, limit, window, cost = i + 1, tonumber(limit), tonumber(window), tonumber(cost)
  local start, before, count = read(stored[i], window)
  if math.floor(before * (1 - (now - start) / window)) + count + cost > limit then allowed = 0 end
  counts[i] = {start, before, count, window, cost}
end
reply[1] = allowed
for i = 1, #counts do
  local start, before, count, window, cost = unpack(counts[i])
  if ARGV[1] == 'charge' or (allowed == 1 and ARGV[1] == 'take') then
    count = count + cost
    write(KEYS[i + 1], window, start, before, count)
  end
  reply[i + 1] = string.format('%d %d %d', now - start, before, count)
end
return table.concat(reply, ' ')
"""
)

# What a replica counted while it could not ask. KEYS: mark of this batch, counts. ARGV of each: window in ms, ms since
# it began, count of the window before, what was known of Redis, what was counted in memory since. What Redis has
# counted of others meanwhile stays; what it has forgotten comes back. The mark lets a batch whose reply was lost be
# sent again.
GIVE_BACK = (
    _COUNT
    + """
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', 3600) then return 0 end
for i = 2, #KEYS do
  local at = 5 * (i - 2)
  local window, elapsed, their_before = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local known, own = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local stored = redis.call('GET', KEYS[i])
  local start, before, count = read(stored, window)
  if not stored then start = now - elapsed end
  write(KEYS[i], window, start, math.max(before, their_before), math.max(count, known) + own)
end
return 1
"""
)

# KEYS: the lane, counts to forget.
FORGIVE = BEGIN + "return redis.call('DEL', unpack(KEYS, 2))"
