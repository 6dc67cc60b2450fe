# SPDX-License-Identifier: Apache-2.0
# Both `make demo` and `make test` set up all they need. ARGS goes to the command: make demo ARGS="--seconds 60 --task push"

# Whole files of tests side by side, a core each; make test PARALLEL= runs one test after the other.
PARALLEL = --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-ros check clean

help:
	@echo "make demo    watch a simulated robot move, and see what the predictor thought it would see"
	@echo "make test    run the whole test suite, the checks included"
	@echo "make test-ros run the tests of the nodes, and of what the embedded graph shares with it, on the real rclpy of ROS 2 Jazzy"
	@echo "make check   ruff and mypy only"
	@echo "make clean   remove the virtual environments and what tests and demo left"
	@echo "More for the command itself goes into ARGS, for example: make demo ARGS=\"--seconds 60\""

demo: .venv/.complete
	.venv/bin/longscape demo $(ARGS)

test: check
	.venv-test/bin/python -m pytest $(PARALLEL) $(ARGS)

test-ros: .venv-ros/.complete
	bash -c '. .venv-ros/setup.bash && .venv-ros/bin/python -m pytest tests/nodes tests/conformance $(PARALLEL) $(ARGS)'

check: .venv-test/.complete
	.venv-test/bin/ruff check .
	.venv-test/bin/mypy

.venv/.complete: pyproject.toml setup.py scripts/setup.sh
	scripts/setup.sh .venv demo

.venv-test/.complete: pyproject.toml setup.py scripts/setup.sh constraints/test.txt
	scripts/setup.sh .venv-test test constraints/test.txt

.venv-ros/.complete: setup.py scripts/setup_ros.sh constraints/ros.txt package.xml $(wildcard longscape_msgs/*.* longscape_msgs/msg/*.msg)
	scripts/setup_ros.sh .venv-ros

clean:
	rm -rf .venv .venv-test .venv-ros demo build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
