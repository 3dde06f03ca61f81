# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the vm suite and the demo: a guest image, a libvirtd of our own, guests under load.

Standard library only. Everything that is started ends with the test, also when the test is killed; everything that is
written lies in one scratch directory or in the cache.
"""
