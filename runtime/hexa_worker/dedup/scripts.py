"""What `hexa_worker.core.claims` says, in Lua: Redis answers a whole batch in one call.

A claim is a string: ``d:FENCE`` done, ``r:FENCE:ATTEMPT`` retrying, ``h:FENCE:ATTEMPT:OWNER`` held; expiry is Redis's
own. Arguments and answers travel as one MessagePack text each, which is cheaper on both sides than many small ones.
An answer is what nearly all keys have in common, and then place (from 1) and answer of each other key.
"""

_COMMON = """
local call, keys = redis.call, KEYS
local given = cmsgpack.unpack(ARGV[1])
local lease, asked = tostring(given[1]), given[2]
local answers = {true}
local function other(i, answer)
  answers[#answers + 1] = i
  answers[#answers + 1] = answer
end
local function parse(value) return string.match(value, '^(%a):(%d+):?(%d*):?(.*)$') end
local function number(value) return string.format('%.0f', value) end
"""
_LOOK = """
local found = call('MGET', unpack(keys))
local seen = {}
local function value_of(i)
  local value = seen[keys[i]]
  if value == nil then value = found[i] end
  return value
end
local function keep(i, value, ttl)
  call('PSETEX', keys[i], ttl, value)
  seen[keys[i]] = value
end
"""

CLAIM = (
    _COMMON
    + """
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local fresh = 'h:' .. number(now)
answers[1] = now
for i = 1, #keys do
  local key, tail = keys[i], asked[i]
  if not call('SET', key, fresh .. tail, 'NX', 'PX', lease) then
    local value = call('GET', key)
    local phase, fence, at, by = parse(value)
    local attempt, owner = string.match(tail, '^:(%d+):(.*)$')
    fence = tonumber(fence)
    if phase == 'd' or (phase == 'r' and tonumber(attempt) < tonumber(at)) then
      other(i, -1)
    elseif phase == 'r' then
      fence = math.max(now, fence + 1)
      call('PSETEX', key, lease, 'h:' .. number(fence) .. tail)
      other(i, fence)
    elseif by == owner then
      call('PSETEX', key, lease, value)
      other(i, fence)
    else
      other(i, 0)
    end
  end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each ``:ATTEMPT:OWNER``. Answers: the fence, 0 wait, -1 skip."""

END = (
    _COMMON
    + _LOOK
    + """
for i = 1, #keys do
  local mine, after, ttl = asked[3 * i - 2], asked[3 * i - 1], asked[3 * i]
  local value = value_of(i)
  local own = not value or value == mine
  if not own then
    local phase, fence, at, by = parse(value)
    local _, my_fence, _, me = parse(mine)
    if phase == 'h' then
      own = by == me
      if not own then other(i, false) end
    elseif fence ~= my_fence then
      other(i, false)
    end
  end
  if own then
    keep(i, after, ttl)
  end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each the claim as it is kept, what to keep from now on, and for how long."""

EXTEND = (
    _COMMON
    + _LOOK
    + """
for i = 1, #keys do
  local mine = asked[i]
  local value = value_of(i)
  local own = not value or value == mine
  if not own then
    local phase, _, _, by = parse(value)
    local _, _, _, me = parse(mine)
    own = phase == 'h' and by == me
  end
  if own then keep(i, mine, lease) else other(i, false) end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each the claim as it is kept."""
