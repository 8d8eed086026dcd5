"""What `hexa_worker.core.claims` says, in Lua: Redis answers a whole batch in one call.

A claim is a string: ``d:FENCE`` done, ``r:FENCE:ATTEMPT`` retrying, ``h:FENCE:ATTEMPT:OWNER`` held; expiry is Redis's
own. Arguments and answers travel as one MessagePack text each, which is cheaper on both sides than many small ones.
"""

_PARSE = """
local call = redis.call
local given = cmsgpack.unpack(ARGV[1])
local lease = tostring(given[1])
local asked = given[2]
local found = call('MGET', unpack(KEYS))
local seen = {}
local answers = {}
local function value_of(i)
  local value = seen[KEYS[i]]
  if value == nil then value = found[i] end
  return value
end
local function parse(value) return string.match(value, '^(%a):(%d+):?(%d*):?(.*)$') end
local function keep(i, value, ttl)
  call('SET', KEYS[i], value, 'PX', ttl)
  seen[KEYS[i]] = value
end
local function number(value) return string.format('%.0f', value) end
"""

CLAIM = (
    _PARSE
    + """
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local fresh = 'h:' .. number(now)
for i = 1, #KEYS do
  local tail, attempt = asked[2 * i - 1], asked[2 * i]
  local value = value_of(i)
  if not value then
    keep(i, fresh .. tail, lease)
    answers[i] = now
  else
    local phase, fence, at, by = parse(value)
    fence = tonumber(fence)
    if phase == 'd' or (phase == 'r' and attempt < tonumber(at)) then
      answers[i] = -1
    elseif phase == 'r' then
      fence = math.max(now, fence + 1)
      keep(i, 'h:' .. number(fence) .. tail, lease)
      answers[i] = fence
    elseif by == string.match(tail, '^:%d+:(.*)$') then
      keep(i, value, lease)
      answers[i] = fence
    else
      answers[i] = 0
    end
  end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each ``:ATTEMPT:OWNER`` and the attempt. Answers: the fence, 0 wait, -1 skip."""

END = (
    _PARSE
    + """
for i = 1, #KEYS do
  local mine, after, ttl = asked[3 * i - 2], asked[3 * i - 1], asked[3 * i]
  local value = value_of(i)
  local own = not value or value == mine
  if not own then
    local phase, fence, at, by = parse(value)
    local _, my_fence, _, me = parse(mine)
    if phase == 'h' then own = by == me else answers[i] = fence == my_fence end
  end
  if own then
    answers[i] = true
    if after == '' then
      call('DEL', KEYS[i])
      seen[KEYS[i]] = false
    else
      keep(i, after, ttl)
    end
  elseif answers[i] == nil then
    answers[i] = false
  end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each the claim as it is kept, what to keep from now on (empty: nothing), and for how long."""

EXTEND = (
    _PARSE
    + """
for i = 1, #KEYS do
  local mine = asked[i]
  local value = value_of(i)
  local own = not value or value == mine
  if not own then
    local phase, _, _, by = parse(value)
    local _, _, _, me = parse(mine)
    own = phase == 'h' and by == me
  end
  answers[i] = own
  if own then keep(i, mine, lease) end
end
return cmsgpack.pack(answers)
"""
)
"""Asked: for each the claim as it is kept."""
