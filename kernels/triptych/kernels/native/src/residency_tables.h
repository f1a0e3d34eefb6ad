// The tables that kernels find a layer's experts by: addresses of their parts, and whether they have come.

#pragma once

#include <vector>

#include "arrivals.h"
#include "residency_args.h"

class LayerTables {
  public:
    explicit LayerTables(const LayerArgs& layer) : layer_(layer), parts_(layer.parts, layer.parts + 9) {}

    int32_t* flags(int32_t expert) const { return layer_.flags + expert; }

    // An expert has a slot, which nothing has been read into yet.
    void place(int32_t expert, char* blob) const {
        int64_t* const tables[] = {layer_.gate, layer_.up, layer_.down};
        for (int64_t i = 0; i < 9; ++i)
            tables[i / 3][i % 3 * layer_.experts + expert] = parts_[i] < 0 ? 0 : reinterpret_cast<int64_t>(blob + parts_[i]);
        enter(flags(expert));
    }

    void remove(int32_t expert) const { leave(flags(expert)); }

  private:
    LayerArgs layer_;
    std::vector<int64_t> parts_;
};
