from fxprune.trace import trace
from fxprune.groups import find_groups
from fxprune.plan import Plan
