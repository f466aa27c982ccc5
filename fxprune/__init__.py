from fxprune import planners, scorers
from fxprune.cost import cost
from fxprune.groups import Groups, find_groups
from fxprune.plan import Plan
from fxprune.rewrite import rewrite
from fxprune.trace import trace
from fxprune.verify import verify
