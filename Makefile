# Everything a clone needs, from a fresh Debian 12 with root:  make demo   make test

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# Containers often set it, and then each of the tests' thousands of ktraces compiles all of its modules.
unexport PYTHONDONTWRITEBYTECODE

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

BUILD_PACKAGES := python3 python3-venv clang llvm libbpf-dev libbpf1 libc6-dev binutils
TEST_PACKAGES := containerd runc busybox-static containernetworking-plugins iproute2 iptables nftables \
	util-linux procps tcpdump ruby bpftool tmux jq openssl podman conmon crun \
	libdevmapper1.02.1 buildah g++ chromium chromium-driver fonts-dejavu-core
SHIP_PACKAGES := dpkg-dev rpm
LAB_PACKAGES := qemu-system-x86 qemu-system-arm e2fsprogs debian-archive-keyring debootstrap python3-bpfcc \
	bash coreutils dash mount util-linux systemd dbus

.PHONY: install unit mutants demo test cluster truth runbook lab matrix check format bench bench-check wheel bundle packages image release clean

install:
	@$(call apt,$(BUILD_PACKAGES) $(TEST_PACKAGES) $(SHIP_PACKAGES) $(LAB_PACKAGES))
	@$(MAKE) --no-print-directory $(VENV)/installed

$(VENV)/installed: pyproject.toml setup.py $(wildcard probes/*.bpf.c probes/include/*.h stap/*.stp stap/tapset/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# A container in a pod is killed, and ktrace names the killer.
demo: install
	$(SUDO) $(BIN)/python -m tests.demo

# The tests that need neither root nor packages beyond python3-venv, clang, llvm, libbpf-dev and libbpf1.
unit: $(VENV)/installed
	$(BIN)/python -m pytest tests/unit

# What the unit tests notice of small changes to the code on which all else rests ([tool.mutmut] in pyproject.toml):
# hours. MUTANTS="tracer.model.selection*" chooses.
mutants: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,mutants]'
	nice -n 19 $(BIN)/mutmut run --max-children $(or $(JOBS),1) $(MUTANTS)
	$(BIN)/mutmut results

# unit: anywhere; browser: Chromium; kernel: this kernel, root; pods: real containerd pods; lab: other kernels, in QEMU;
# software: real programs in real pods; cluster: real Kubernetes.
# KTRACE_NO_SKIP=1 turns every skip into a failure. ARGS="tests/unit -k oom" chooses.
test: install
	$(SUDO) env KTRACE_NO_SKIP=$(KTRACE_NO_SKIP) $(BIN)/python -m $(if $(ARGS),pytest $(ARGS),tests)

# A node of real Kubernetes, until Ctrl-C; it says how to use it. The first time it is built, in some minutes.
cluster: install
	$(SUDO) $(BIN)/python -m tests.cluster

# Incidents in real pods, and what ktrace why says of them, as a confusion table. TRUTH="host" chooses.
# CLUSTER=1: in a node of real Kubernetes, beside what kubectl shows; SOFTWARE=1: what happens to nginx, a JVM and other
# real programs. All of both go into the documentation.
truth: install
	$(SUDO) $(BIN)/python -m tests.$(if $(CLUSTER),cluster.)$(if $(SOFTWARE),software.)truth $(TRUTH)

# Stages the incidents of docs/runbook/, writes what ktrace prints into its pages, and makes reports of them.
# RUNBOOK="oomkilled disk-full" chooses.
runbook: install
	$(SUDO) $(BIN)/python -m tests.runbook $(RUNBOOK)

# The kernel tests on Debian's kernels under QEMU, as a matrix. LAB="5.10 7.2" chooses.
lab: install
	$(SUDO) $(BIN)/python -m tests.lab $(LAB)

# The same on all of them, and the matrix goes into the documentation. LAB=arm64: that of another kind of machines.
matrix: install
	$(SUDO) $(BIN)/python -m tests.lab $(LAB) --write docs/compatibility.md

# Building the wheel compiles the BPF programs with warnings as errors.
check: install
	@mkdir -p build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror probes/*.bpf.c probes/include/*.h
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mypy --python-version 3.10
	$(BIN)/python -m build --wheel --outdir build/check . >build/check.log 2>&1 || { cat build/check.log; false; }
	ruby -c Vagrantfile

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i probes/*.bpf.c probes/include/*.h

# Side by side with bpftrace and sigsnoop, in one run; then what the probes cost, what recordings cost, the backends, and
# what is held while pods come and go; how soon the plugin sees something, and how soon the bundle runs.
# BENCH="signals why" chooses; BENCH=--loaded measures a loaded machine, too. It goes into docs/performance.md.
bench: install
	$(SUDO) $(BIN)/python -m bench --write $(BENCH)

# Whether it is slower than BASE (a tag, a commit or a wheel; the last tag), in turns in one run, in some six minutes.
bench-check: install
	$(SUDO) $(BIN)/python -m bench.check $(BASE)

# For any Linux with a C library of 2012 or later, with libbpf inside. KTRACE_ARCH=arm64 builds this and what follows for
# another kind of machine. The first time takes some minutes, as libbpf is compiled.
wheel: install
	$(BIN)/python -m deploy.wheel dist

# A directory that needs nothing of a node: its own Python, C library and loader. Also packed, with SHA256SUMS.
bundle: wheel
	$(BIN)/python -m deploy.bundle dist

# The bundle as a .deb and an .rpm.
packages: bundle
	$(BIN)/python -m deploy.packages dist

# The bundle as a container image with nothing else in it, and the manifest that runs it on every node.
image: bundle
	$(BIN)/python -m deploy.image dist

# Everything that is published, for all kinds of machines, from a clean checkout: RELEASE.md.
release: install
	$(BIN)/python -m deploy.release dist

clean:
	rm -rf build dist *.egg-info tracer/objects tracer/sources tracer/stap $(VENV)

# Installs what is missing and stays quiet when nothing is.
define apt
missing=$$(for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
if [ -n "$$missing" ]; then \
	echo "installing" $$missing; \
	$(SUDO) apt-get update -qq && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
fi
endef
