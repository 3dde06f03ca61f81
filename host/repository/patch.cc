// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/patch.hh"

#include "host/repository/map-node.hh"
#include "host/repository/pack.hh"

namespace stillpoint {

namespace {

/// The better matches are worth more than the time: pieces with a base are few, or else much alike.
constexpr int patch_level = 3;
/// Base and result lie in one window.
constexpr int window_log = 21;
static_assert(std::size_t{1} << window_log >= (max_patch_bases + 1) * max_dump_chunk_bytes);

}  // namespace

std::vector<std::byte> PatchMaker::make(std::span<const std::byte> base, std::span<const std::byte> wanted,
                                        std::size_t limit) {
  ZSTD_CCtx* const context = compressor_.get();
  // All of these hold for one frame.
  ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters);
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, patch_level);
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  ZSTD_CCtx_refPrefix(context, base.data(), base.size());
  // With less room than this zstd gives up on what would fit in the end.
  const std::size_t bound = ZSTD_compressBound(wanted.size());
  if (made_.size() < bound) made_.resize(bound);
  const std::size_t length = ZSTD_compress2(context, made_.data(), made_.size(), wanted.data(), wanted.size());
  if (ZSTD_isError(length) != 0 || length > limit) return {};
  return {made_.begin(), made_.begin() + static_cast<std::ptrdiff_t>(length)};
}

bool PatchReader::apply(std::span<const std::byte> base, std::span<const std::byte> patch,
                        std::span<std::byte> wanted) {
  ZSTD_DCtx* const context = decompressor_.get();
  ZSTD_DCtx_reset(context, ZSTD_reset_session_and_parameters);
  ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, window_log);
  ZSTD_DCtx_refPrefix(context, base.data(), base.size());
  return ZSTD_decompressDCtx(context, wanted.data(), wanted.size(), patch.data(), patch.size()) == wanted.size();
}

}  // namespace stillpoint
