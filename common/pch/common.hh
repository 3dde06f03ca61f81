// SPDX-License-Identifier: LGPL-2.1-or-later
// Precompiled for every part of the program: most of a small file's compile time is these headers. Files include what
// they use all the same (-Db_pch=false checks it).
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
