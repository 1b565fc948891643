# make demo    a first look: a lab of qubes on this machine, calls between them
# make test    everything that must hold
# make help    all targets

SWIFT ?= swift
# Static programs need --disable-local-rpath; one build serves static and shared ones.
RELEASE = -c release --static-swift-stdlib --disable-local-rpath
OUTPUT = .build/release
# Of make install: what this machine is (dom0, vm: a qube, lab: programs only), and where.
ROLE ?= lab
DESTDIR ?=
PREFIX ?= /usr
FORCE ?=

.PHONY: help build demo test test-unit test-end-to-end test-models lint format bench bench-calls \
	bench-xen test-xen fuzz soak install uninstall clean packages programs prompt-window \
	test-install

help:
	@echo 'make demo        a lab of qubes on this machine: an allowed and a denied call'
	@echo 'make test        lint, build, unit and end-to-end tests, models, fuzzers, the demo'
	@echo 'make build       all programs, under the names users know, in .build/bin'
	@echo 'make prompt-window   the window that asks about calls (needs GTK 3)'
	@echo 'make lint        style and structure of the sources'
	@echo 'make bench       all benchmarks (JSON=FILE, STRICT=1); also bench-NAME'
	@echo 'make test-xen    the suite on a real Xen, booted in QEMU (part of make test)'
	@echo 'make bench-xen   the ring against the C library on that Xen'
	@echo 'make fuzz        all fuzzers (SECONDS=N each)'
	@echo 'make soak        a million closes of a vchan by either side, none of which may lose a byte'
	@echo 'make install     ROLE=dom0 or ROLE=vm (a qube), DESTDIR=…; make uninstall DESTDIR=…'
	@echo 'make clean'

packages:
	@.ci/packages build lab

programs: packages
	@echo '== build (release; the first one takes some minutes)'
	$(SWIFT) build $(RELEASE)

build: programs
	@.ci/stage $(OUTPUT) .build
	@echo 'The programs are in .build/bin; start with .build/bin/qubes-lab up'

prompt-window:
	@.ci/packages build window
	QREXEC_WINDOW=1 $(SWIFT) build $(RELEASE) --product qrexec-policy-window

demo: build
	.build/bin/qubes-lab demo

lint:
	@.ci/lint

test:
	@.ci/test

test-xen: build
	@.ci/packages xen
	@Tests/XenLab/run

bench-xen: build
	@.ci/packages xen
	@Benchmarks/Xen/run

bench: build
	@Benchmarks/run all

bench-%: build
	@Benchmarks/run $*

fuzz:
	@.ci/fuzz $(or $(SECONDS),60)

soak: build
	@.build/bin/vchan-conformance --progress --case closes --closes $(or $(CLOSES),1000000)

install: build
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" FORCE="$(FORCE)" .ci/install install "$(ROLE)"

uninstall:
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" .ci/install uninstall

test-install:
	@.ci/test-install

clean:
	rm -rf .build
