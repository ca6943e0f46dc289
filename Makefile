# VLN-R1 for ROS 2. Everything runs in .venv, made on first use by install.sh.

PYTHON := .venv/bin/python
INSTALLED := .venv/installed
INSTALLED39 := .venv39/installed
KILTED := .venv-kilted

# A sourced ROS workspace or another environment must not leak into .venv.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH RMW_IMPLEMENTATION
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE FASTDDS_BUILTIN_TRANSPORTS
unexport FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE
# With more processes than cores, several threads in each make all of them slower.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test smoke lint parameters nano soak soak-kilted clean

help:
	@echo 'make demo    a robot follows five sentences in apartments it has never seen -> demo/'
	@echo 'make test    lint, then the tests'
	@echo 'make smoke   the tests of the ROS side again, on the newer distro that make test has too'
	@echo 'make lint    ruff'
	@echo 'make parameters  the tables of parameters in the documents, as the nodes declare them'
	@echo 'make nano    train models/nano again (two cores, up to 3 hours, resumable)'
	@echo 'make soak    the tests that take hours; soak-kilted: those of the robot on a newer ROS 2'
	@echo 'make clean   remove what running leaves behind, .venv included'

demo: $(INSTALLED)
	@$(PYTHON) -m vlnr1_ros demo

# Message fields of a wrong type are sent as garbage unless ROS is told to check them.
test: lint $(INSTALLED39) $(KILTED)/installed
	@ROS_PYTHON_CHECK_FIELDS=1 $(PYTHON) -m pytest --listed-skips-only
	@$(MAKE) --no-print-directory smoke

# On a newer distro, without torch: what talks to ROS. Files without such tests may need torch.
smoke: $(KILTED)/installed
	@ROS_PYTHON_CHECK_FIELDS=1 $(KILTED)/bin/python -m pytest --listed-skips-only -m smoke \
		$$(grep -l 'mark\.smoke' test/test_*.py)

parameters: $(INSTALLED)
	@$(PYTHON) docs/write_parameters.py

lint: $(INSTALLED)
	@$(PYTHON) -m ruff check .

nano: $(INSTALLED)
	@$(PYTHON) -m training.nano --install

# A leg of driving of SOAK_MINUTES adds a line to build/soak.jsonl: again and again until there are
# eight simulated hours.
soak: $(INSTALLED)
	@$(PYTHON) -m pytest -m soak

soak-kilted: $(KILTED)/installed
	@$(KILTED)/bin/python -m pytest -m soak test/test_driver_soak.py test/test_soak_drive.py

clean:
	rm -rf .venv .venv39 .venv-kilted data demo install log dist *.egg-info .pytest_cache .ruff_cache
	@# build/nano is hours of work and stays; results and runs are the user's
	find build -mindepth 1 -maxdepth 1 ! -name nano -exec rm -rf {} + 2>/dev/null || true
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): install.sh setup.py constraints.txt
	@bash install.sh
	@touch $@

# says itself when it is done: without its packages the tests do with less
$(INSTALLED39): install39.sh constraints-py39.txt
	@bash install39.sh

$(KILTED)/installed: $(INSTALLED) install-kilted.sh constraints.txt constraints-kilted.txt
	@bash install-kilted.sh
	@touch $@
