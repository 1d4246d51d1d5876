// The unified kernel: every sub-kernel of a transposed convolution in one launch, as an implicit matrix
// product.  Rows are (output channel, residue class) pairs, columns are domain positions, and the sum
// runs over input channels and window shifts.
//
// A block owns some row tiles for a tile of the domain.  It brings the input window of that tile (with
// its halo) into shared memory once a chunk of channels, positions outermost, so that "the window
// shifted by u" is an address offset.  Weights stream through a ring of stages by asynchronous copies,
// one shift a stage.  All classes of the block accumulate in registers, and the epilogue gathers them in
// shared memory to write whole, interleaved output rows.
#pragma once

#include <type_traits>

#include "cuda/epilogue.cuh"
#include "cuda/intrinsics.h"

namespace ort_tconv::cuda {

// Warps of a block, and 16x8 tiles of a warp.
template <int warps_m_, int warps_n_, int tiles_m_, int tiles_n_> struct Tile {
  static constexpr int kWarpsM = warps_m_, kWarpsN = warps_n_, kTilesM = tiles_m_, kTilesN = tiles_n_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kRowTiles = kWarpsM * kTilesM;
  static constexpr int kRows = kRowTiles * kRowTile, kColumns = kWarpsN * kTilesN * 8;
};

// Byte of a 16-byte piece of a window position.  The exclusive or spreads pieces over the banks, both
// for threads that write one piece of neighbouring positions and for those that read all pieces of two.
TCONV_DEVICE int window_piece(int position, int piece) {
  return position * kChunkBytes + ((piece ^ (position >> 1 & 3)) << 4);
}

// ---- arithmetic ----------------------------------------------------------------------------------
//
// A policy says how a warp multiplies row tiles by columns of the window, and with that the order of
// elements in a packed row tile: element e of 16-byte item i belongs to row row(i, e), channel
// channel(i, e) of the chunk.  Sums may run over channels in any order, so each thread gets channels that
// are neighbours in memory.
//
// Accumulators are laid out as those of mma.sync in all of them: with g = lane / 4, t = lane % 4,
// c[0], c[1] are row g, columns 2t, 2t+1, and c[2], c[3] the same of row g + 8.

template <class T> struct Multiply;  // mma.sync, k = 16 (two-byte elements) or 8

template <> struct Multiply<Half> {
  static TCONV_DEVICE void mma(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) { mma_f16(c, a, b0, b1); }
};
template <> struct Multiply<BFloat16> {
  static TCONV_DEVICE void mma(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) { mma_bf16(c, a, b0, b1); }
};
template <> struct Multiply<float> {
  static TCONV_DEVICE void mma(float (&c)[4], const uint32_t* a, uint32_t b0, uint32_t b1) { mma_tf32(c, a, b0, b1); }
};

template <class T> struct TensorCores {
  using Element = T;
  using Accumulator = float;
  static constexpr int kColumnsPerTile = 1;  // window positions a thread reads for 8 columns

  static TCONV_HOST_DEVICE int row(int item, int e) {
    const int reg = sizeof(T) == 2 ? e / 2 : e;
    return item % 32 / 4 + 8 * (reg & 1);
  }
  static TCONV_HOST_DEVICE int channel(int item, int e) {
    const int product = item / 32, t = item % 4;
    return sizeof(T) == 2 ? 8 * t + 4 * product + 2 * (e / 4) + (e & 1) : 4 * t + 2 * product + e / 2;
  }
  static TCONV_DEVICE T prepare(T v) {
    if constexpr (std::is_same_v<T, float>) return round_to_tf32(v);
    else return v;
  }
  static TCONV_DEVICE int column(int lane, int j) { return 8 * j + lane / 4; }

  template <int m, int n>
  static TCONV_DEVICE void multiply(float (&sums)[m][n][4], uint32_t present, int weights, int window,
                                    const int (&columns)[n], int shift, int lane) {
    join_warp();
    Vec16 b[n];
    for (int j = 0; j < n; ++j) b[j] = load_shared<Vec16>(window + window_piece(columns[j] + shift, lane & 3));
    TCONV_UNROLL
    for (int i = 0; i < m; ++i) {
      if (!(present >> i & 1)) continue;
      TCONV_UNROLL
      for (int product = 0; product < 2; ++product) {
        const Vec16 a = load_shared<Vec16>(weights + i * kRowTileBytes + product * 512 + lane * 16);
        TCONV_UNROLL
        for (int j = 0; j < n; ++j)
          Multiply<T>::mma(sums[i][j], a.word, b[j].word[2 * product], b[j].word[2 * product + 1]);
      }
    }
  }
};

template <class T> struct CudaCores {
  using Element = T;
  using Accumulator = T;
  static constexpr int kColumnsPerTile = 2;

  static TCONV_HOST_DEVICE int row(int item, int) { return item % kRowTile; }
  static TCONV_HOST_DEVICE int channel(int item, int e) {
    return item / kRowTile * static_cast<int>(16 / sizeof(T)) + e;
  }
  static TCONV_DEVICE T prepare(T v) { return v; }
  static TCONV_DEVICE int column(int lane, int j) { return 8 * (j / 2) + 2 * (lane & 3) + (j & 1); }

  template <int m, int n>
  static TCONV_DEVICE void multiply(T (&sums)[m][n][4], uint32_t present, int weights, int window,
                                    const int (&columns)[2 * n], int shift, int lane) {
    constexpr int elements = Piece<T>::kCount;
    TCONV_UNROLL_NOT
    for (int piece = 0; piece < 4; ++piece) {
      Piece<T> b[2 * n];
      TCONV_UNROLL
      for (int j = 0; j < 2 * n; ++j) b[j] = load_shared<Piece<T>>(window + window_piece(columns[j] + shift, piece));
      TCONV_UNROLL
      for (int i = 0; i < m; ++i) {
        if (!(present >> i & 1)) continue;
        const int at = weights + i * kRowTileBytes + (piece * kRowTile + lane / 4) * 16;
        const Piece<T> upper = load_shared<Piece<T>>(at), lower = load_shared<Piece<T>>(at + 8 * 16);
        TCONV_UNROLL
        for (int e = 0; e < elements; ++e) TCONV_UNROLL
        for (int j = 0; j < n; ++j) {
          sums[i][j][0] += upper.v[e] * b[2 * j].v[e];
          sums[i][j][1] += upper.v[e] * b[2 * j + 1].v[e];
          sums[i][j][2] += lower.v[e] * b[2 * j].v[e];
          sums[i][j][3] += lower.v[e] * b[2 * j + 1].v[e];
        }
      }
    }
  }
};

// ---- packed weights ------------------------------------------------------------------------------

TCONV_DEVICE int linear_tap(const Axis (&axis)[3], int cls, int shift) {
  // Innermost axis first.  A row without a tap on one axis has none.
  int tap = 0, stride = 1;
  TCONV_UNROLL
  for (int i = 2; i >= 0; --i) {
    const int outer_class = axis[i].classes_div(cls), outer_shift = axis[i].offsets_div(shift);
    const int t =
        axis[i].tap(axis[i].classes_div.remainder(cls, outer_class), axis[i].offsets_div.remainder(shift, outer_shift));
    if (t < 0) return -1;
    tap += t * stride;
    stride *= axis[i].kernel;
    cls = outer_class, shift = outer_shift;
  }
  return tap;
}

// One thread a 16-byte item.
template <class Math> TCONV_KERNEL(256, 2) pack_kernel(PackParams p) {
  using T = typename Math::Element;
  constexpr int items = kRowTileBytes / 16, chunk_channels = kChunkBytes / static_cast<int>(sizeof(T));
  const int64_t count = int64_t{p.groups} * p.chunks * p.tiles * items;
  for (int64_t at = int64_t{block_x()} * 256 + thread_index(); at < count; at += int64_t{grid_x()} * 256) {
    const int item = static_cast<int>(at % items);
    const int64_t tile_at = at / items;
    const int packed_tile = static_cast<int>(tile_at % p.tiles);
    const int64_t chunk_at = tile_at / p.tiles;
    const int chunk = static_cast<int>(chunk_at % p.chunks), group = static_cast<int>(chunk_at / p.chunks);
    const int per_tile = p.rows.folded ? p.shifts : p.taps;
    const int tile = packed_tile / per_tile, slot = packed_tile % per_tile;
    Piece<T> out;
    for (int e = 0; e < Piece<T>::kCount; ++e) {
      const int row = Math::row(item, e), c = chunk * chunk_channels + Math::channel(item, e);
      int channel, tap = slot;
      if (p.rows.folded) {
        int cls;
        const bool exists = p.rows.locate(tile, row, channel, cls);
        tap = exists ? linear_tap(p.axis, cls, slot) : -1;
      } else {
        channel = tile * kRowTile + row;
      }
      const bool exists = tap >= 0 && channel < p.group_out && c < p.group_in;
      out.v[e] = exists
                     ? Math::prepare(load(static_cast<const T*>(p.w) +
                                          ((int64_t{group} * p.group_in + c) * p.group_out + channel) * p.taps + tap))
                     : T{};
    }
    store(static_cast<Piece<T>*>(p.packed) + at, out);
  }
}

// ---- the kernel ----------------------------------------------------------------------------------

template <class Math, class Tile> class Gemm {
  using T = typename Math::Element;
  using A = typename Math::Accumulator;
  static constexpr int kPieces = kChunkBytes / 16;
  static constexpr int kChunkChannels = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kColumnCount = Math::kColumnsPerTile * Tile::kTilesN;
  static constexpr int kAhead = 4;  // pieces of the next window that a thread holds in registers

  const GemmParams& p;
  const GemmShared shared;
  const int tid = thread_index();
  int group, first_row_tile, first_image, first_position[3];
  int columns[kColumnCount];
  int ahead_offset[kAhead];
  Piece<T> ahead[kAhead];
  A sums[Tile::kTilesM][Tile::kTilesN][4];

 public:
  explicit TCONV_DEVICE Gemm(const GemmParams& params)
      : p(params), shared(Tile::kRowTiles, Tile::kColumns, sizeof(A), params.shifts, params.window) {}

  TCONV_DEVICE void run() {
    locate_block();
    const int steps = list_steps();
    multiply_all(steps);
    write_outputs();
  }

 private:
  TCONV_DEVICE void locate_block() {
    int rest = block_x();
    TCONV_UNROLL
    for (int i = 2; i >= 0; --i) {
      const int outer = p.axis[i].tiles(rest);
      first_position[i] = p.axis[i].tiles.remainder(rest, outer) << p.axis[i].tile_log2;
      rest = outer;
    }
    first_image = rest << p.batch_tile_log2;
    group = p.row_blocks(block_y());
    first_row_tile = p.row_blocks.remainder(block_y(), group) * Tile::kRowTiles;

    const int lane = tid & 31, warp_n = tid / 32 % Tile::kWarpsN;
    TCONV_UNROLL
    for (int j = 0; j < kColumnCount; ++j)
      columns[j] = window_position(warp_n * Tile::kTilesN * 8 + Math::column(lane, j));
    TCONV_UNROLL
    for (int k = 0; k < kAhead; ++k) ahead_offset[k] = input_offset(tid + k * Tile::kThreads);
    TCONV_UNROLL
    for (int i = 0; i < Tile::kTilesM; ++i) TCONV_UNROLL
    for (int j = 0; j < Tile::kTilesN; ++j) TCONV_UNROLL
    for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
  }

  // Where the window holds the input of a column at offset first_offset.
  TCONV_DEVICE int window_position(int column) const {
    int at = 0, stride = 1;
    TCONV_UNROLL
    for (int i = 2; i >= 0; --i) {
      at += (column & ((1 << p.axis[i].tile_log2) - 1)) * stride;
      column >>= p.axis[i].tile_log2;
      stride *= p.axis[i].window;
    }
    return at + column * stride;
  }

  // Tabulates the window shifts at which some row of this block has a tap.
  TCONV_DEVICE int list_steps() const {
    for (int u = tid; u < p.shifts; u += Tile::kThreads) {
      bool any = false;
      for (int r = 0; r < Tile::kRowTiles; ++r) {
        const int source = weight_tile(first_row_tile + r, u);
        store_shared(shared.sources + 4 * (u * Tile::kRowTiles + r), source);
        any = any || source >= 0;
      }
      store_shared(shared.flags + 4 * u, static_cast<int>(any));
    }
    sync_threads();
    for (int u = tid; u < p.shifts; u += Tile::kThreads) {
      int before = 0;
      for (int v = 0; v < u; ++v) before += load_shared<int>(shared.flags + 4 * v);
      const int own = load_shared<int>(shared.flags + 4 * u);
      if (own) {
        const int outer = p.axis[2].offsets_div(u), outermost = p.axis[1].offsets_div(outer);
        const int ux = p.axis[2].offsets_div.remainder(u, outer),
                  uy = p.axis[1].offsets_div.remainder(outer, outermost);
        store_shared(shared.steps + 8 * before, u);
        store_shared(shared.steps + 8 * before + 4, (outermost * p.axis[1].window + uy) * p.axis[2].window + ux);
      }
      if (u == p.shifts - 1) store_shared(shared.count, before + own);
    }
    sync_threads();
    return load_shared<int>(shared.count);
  }

  // Index of the packed weights of a row tile at a shift; -1 if no row of it has a tap there.
  TCONV_DEVICE int weight_tile(int row_tile, int shift) const {
    if (row_tile >= p.row_tiles) return -1;
    if (!p.rows.folded) {
      const int outer = p.rows.classes_div(row_tile);
      const int tap = linear_tap(p.axis, p.rows.classes_div.remainder(row_tile, outer), shift);
      return tap < 0 ? -1 : outer * p.taps + tap;
    }
    for (int i = 0; i < kRowTile; ++i) {
      int channel, cls;
      if (p.rows.locate(row_tile, i, channel, cls) && linear_tap(p.axis, cls, shift) >= 0)
        return row_tile * p.shifts + shift;
    }
    return -1;
  }

  // ---- input window

  // Offset of a window piece's position in the block's first image and channel; -1 outside the image or
  // the window.
  TCONV_DEVICE int input_offset(int item) const {
    const int piece = p.window_div(item), position = p.window_div.remainder(item, piece);
    if (piece >= kPieces) return -1;
    const int image = p.image_div(position);
    int rest = p.image_div.remainder(position, image), offset = 0, stride = 1;
    bool inside = first_image + image < p.batch;
    TCONV_UNROLL
    for (int i = 2; i >= 0; --i) {
      const int outer = p.axis[i].window_div(rest);
      const int at = first_position[i] + p.axis[i].first_offset + p.axis[i].window_div.remainder(rest, outer);
      inside = inside && at >= 0 && at < p.axis[i].in;
      offset += at * stride;
      stride *= p.axis[i].in;
      rest = outer;
    }
    return inside ? image * p.channels * static_cast<int>(p.in_plane) + offset : -1;
  }

  TCONV_DEVICE Piece<T> read_piece(int item, int offset, int chunk) const {
    const int first = chunk * kChunkChannels + p.window_div(item) * Piece<T>::kCount;
    const T* x = static_cast<const T*>(p.x) +
                 (int64_t{first_image} * p.channels + int64_t{group} * p.group_in + first) * p.in_plane;
    Piece<T> out;
    TCONV_UNROLL
    for (int e = 0; e < Piece<T>::kCount; ++e)
      out.v[e] = offset >= 0 && first + e < p.group_in ? Math::prepare(load(x + offset + e * p.in_plane)) : T{};
    return out;
  }

  TCONV_DEVICE void write_piece(int item, const Piece<T>& v, int chunk) const {
    const int piece = p.window_div(item), position = p.window_div.remainder(item, piece);
    store_shared(window(chunk) + window_piece(position, piece), v);
  }

  TCONV_DEVICE int window(int chunk) const { return shared.windows + (chunk & 1) * shared.window_bytes; }

  TCONV_DEVICE void fetch_window(int chunk) {
    TCONV_UNROLL
    for (int k = 0; k < kAhead; ++k) ahead[k] = read_piece(tid + k * Tile::kThreads, ahead_offset[k], chunk);
  }

  TCONV_DEVICE void keep_window(int chunk) {
    const int items = kPieces * p.window;
    TCONV_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (tid + k * Tile::kThreads < items) write_piece(tid + k * Tile::kThreads, ahead[k], chunk);
    // What the registers do not hold of a large window is read now.
    for (int item = tid + kAhead * Tile::kThreads; item < items; item += Tile::kThreads)
      write_piece(item, read_piece(item, input_offset(item), chunk), chunk);
  }

  // ---- weights

  TCONV_DEVICE void fetch_weights(int chunk, int step, int stage) const {
    const int u = load_shared<int>(shared.steps + 8 * step);
    const char* packed =
        static_cast<const char*>(p.w) + (int64_t{group} * p.chunks + chunk) * p.packed_tiles * kRowTileBytes;
    constexpr int items = kRowTileBytes / 16;
    TCONV_UNROLL
    for (int i = tid; i < Tile::kRowTiles * items; i += Tile::kThreads) {
      const int source = load_shared<int>(shared.sources + 4 * (u * Tile::kRowTiles + i / items));
      if (source >= 0)
        cp_async16(shared.weights + (stage * Tile::kRowTiles * items + i) * 16,
                   packed + int64_t{source} * kRowTileBytes + i % items * 16);
    }
  }

  TCONV_DEVICE void multiply_all(int steps) {
    const int begin = block_z() * p.chunks_per_split;
    const int end = begin + p.chunks_per_split < p.chunks ? begin + p.chunks_per_split : p.chunks;
    if (steps == 0 || begin >= end) return;
    const int lane = tid & 31, warp_row_tile = tid / 32 / Tile::kWarpsN * Tile::kTilesM;

    // The next weights to fetch: kStages - 1 steps ahead.
    int next_chunk = begin, next_step = 0, next_stage = 0;
    const auto fetch_next = [&] {
      if (next_chunk < end) fetch_weights(next_chunk, next_step, next_stage);
      cp_async_commit();  // an empty group at the end keeps the count of groups
      next_stage = next_stage == kStages - 1 ? 0 : next_stage + 1;
      if (++next_step == steps) next_step = 0, ++next_chunk;
    };
    for (int i = 0; i < kStages - 1; ++i) fetch_next();
    fetch_window(begin);
    keep_window(begin);

    int stage = 0;
    for (int chunk = begin; chunk < end; ++chunk) {
      for (int step = 0; step < steps; ++step) {
        cp_async_wait<kStages - 2>();
        // This step's weights and window are there for all, and all have done with the stage before.
        sync_threads();
        fetch_next();
        if (step == 0 && chunk + 1 < end) fetch_window(chunk + 1);
        const int u = load_shared<int>(shared.steps + 8 * step), shift = load_shared<int>(shared.steps + 8 * step + 4);
        uint32_t present = 0;
        TCONV_UNROLL
        for (int i = 0; i < Tile::kTilesM; ++i)
          present |= (load_shared<int>(shared.sources + 4 * (u * Tile::kRowTiles + warp_row_tile + i)) >= 0) << i;
        if (present)
          Math::multiply(sums, present, shared.weights + (stage * Tile::kRowTiles + warp_row_tile) * kRowTileBytes,
                         window(chunk), columns, shift, lane);
        stage = stage == kStages - 1 ? 0 : stage + 1;
        if (step == steps - 1 && chunk + 1 < end) keep_window(chunk + 1);
      }
    }
    cp_async_wait<0>();
  }

  // ---- outputs

  TCONV_DEVICE void write_outputs() const {
    sync_threads();
    const int lane = tid & 31, warp = tid / 32;
    const int row0 = warp / Tile::kWarpsN * Tile::kTilesM * kRowTile + lane / 4;
    const int column0 = warp % Tile::kWarpsN * Tile::kTilesN * 8 + 2 * (lane & 3);
    struct alignas(2 * sizeof(A)) Pair { A v[2]; };
    TCONV_UNROLL
    for (int i = 0; i < Tile::kTilesM; ++i) TCONV_UNROLL
    for (int j = 0; j < Tile::kTilesN; ++j) TCONV_UNROLL
    for (int half = 0; half < 2; ++half)
      store_shared(gathered(row0 + i * kRowTile + half * 8, column0 + j * 8),
                   Pair{{sums[i][j][2 * half], sums[i][j][2 * half + 1]}});
    sync_threads();
    if (p.partial) write_lines<false>(static_cast<A*>(p.partial) + block_z() * p.partial_stride);
    else write_lines<true>(static_cast<T*>(p.y));
  }

  TCONV_DEVICE int gathered(int row, int column) const {
    return shared.gather + row * shared.gather_stride + column * static_cast<int>(sizeof(A));
  }

  // A line is what the block has of a row of outputs: element e is domain position e / classes, class
  // e % classes of the last axis.  Threads take 16-byte vectors of it, aligned as they are in memory.
  template <bool last, class Out> TCONV_DEVICE void write_lines(Out* y) const {
    constexpr int width = Piece<Out>::kCount;
    const Axis &az = p.axis[0], &ay = p.axis[1], &ax = p.axis[2];
    // Units are rows if folded, else row tiles.
    const int first_unit = p.rows.folded ? first_row_tile * kRowTile : first_row_tile;
    const int end_unit = first_unit + (p.rows.folded ? Tile::kRows : Tile::kRowTiles);
    const int rows_of_unit = p.rows.folded ? 1 : kRowTile;
    const int first_line = ax.classes_div(first_unit), lines = ax.classes_div(end_unit - 1) - first_line + 1;
    const int length = ax.classes << ax.tile_log2;
    const int outer_log2 = p.batch_tile_log2 + az.tile_log2 + ay.tile_log2;
    const int items = (lines * rows_of_unit << outer_log2) * static_cast<int>(p.line_vectors.divisor);
    for (int item = tid; item < items; item += Tile::kThreads) {
      int rest = p.line_vectors(item);
      const int vector = p.line_vectors.remainder(item, rest);
      int position = rest & ((1 << outer_log2) - 1);
      const int column0 = position << ax.tile_log2;
      rest >>= outer_log2;
      const int sub_row = rest % rows_of_unit, line = first_line + rest / rows_of_unit;
      // Which outputs: channel, image, and coordinates of the outer axes.
      const int outer_line = ay.classes_div(line), outermost = az.classes_div(outer_line);
      const int channel = outermost * rows_of_unit + sub_row;
      const int qy = position & ((1 << ay.tile_log2) - 1);
      position >>= ay.tile_log2;
      const int qz = position & ((1 << az.tile_log2) - 1), image = first_image + (position >> az.tile_log2);
      const int oy = ay.stride * (first_position[1] + qy) + ay.origin + ay.classes_div.remainder(line, outer_line);
      const int oz = az.stride * (first_position[0] + qz) + az.origin + az.classes_div.remainder(outer_line, outermost);
      if (channel >= p.group_out || image >= p.batch || oy < 0 || oy >= ay.out || oz < 0 || oz >= az.out) continue;
      const int m = group * p.group_out + channel;
      const int ox0 = ax.stride * first_position[2] + ax.origin;
      const int64_t line_at =
          (int64_t{image} * p.out_channels + m) * p.out_plane + (int64_t{oz} * ay.out + oy) * ax.out;
      const int misaligned = static_cast<int>((line_at + ox0) % width + width) % width;  // ox0 may be negative
      const int e0 = vector * width - misaligned;
      A values[width];
      uint32_t mask = 0;
      TCONV_UNROLL
      for (int i = 0; i < width; ++i) {
        values[i] = 0;
        const int e = e0 + i;
        if (e < 0 || e >= length) continue;
        const int q = ax.classes_div(e), k = ax.classes_div.remainder(e, q);
        const int ox = ox0 + ax.stride * q + k, unit = line * ax.classes + k;
        if (ox < 0 || ox >= ax.out || unit < first_unit || unit >= end_unit) continue;
        values[i] = load_shared<A>(gathered((unit - first_unit) * rows_of_unit + sub_row, column0 + q));
        mask |= 1u << i;
      }
      if (mask == 0) continue;
      // Where an axis has fewer classes than its stride, it has one domain position: element e is output
      // ox0 + e in any case.
      const bool whole = mask == (1u << width) - 1 && p.vector_stores;
      finish<last>(y, line_at + ox0 + e0, values, mask, whole, p.epilogue, m);
    }
  }
};

template <class Math, class Tile> TCONV_KERNEL(Tile::kThreads, Tile::kThreads > 128                      ? 1
                                                               : sizeof(typename Math::Accumulator) == 8 ? 2
                                                                                                         : 3)
gemm_kernel(GemmParams p) {
  Gemm<Math, Tile>(p).run();
}

// One thread a vector of outputs.
template <class T, class A> TCONV_KERNEL(256, 2) reduce_kernel(ReduceParams p) {
  for (int64_t i = int64_t{block_x()} * 256 + thread_index(); i < p.count; i += int64_t{grid_x()} * 256) {
    A sum[1] = {0};
    for (int s = 0; s < p.splits; ++s) sum[0] += load(static_cast<const A*>(p.partial) + s * p.partial_stride + i);
    finish<true>(static_cast<T*>(p.y), i, sum, 1, false, p.epilogue,
                 static_cast<int>(i / p.out_plane % p.out_channels));
  }
}

}  // namespace ort_tconv::cuda
