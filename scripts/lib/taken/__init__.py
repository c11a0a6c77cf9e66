"""The cost of preemption and walltimes: held and useful node-seconds, steps made twice."""
