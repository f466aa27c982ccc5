"""Costs: what a plan leaves of MACs, parameters and time.

macs     multiply-accumulates and parameters of any plan, exact, without running anything
latency  time on the present device, predicted from a table of measured ops
"""
