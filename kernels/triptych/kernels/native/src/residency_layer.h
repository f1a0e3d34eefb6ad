// The experts of a layer: which slot each of them is in, and whom the layer keeps.

#pragma once

#include <utility>
#include <vector>

#include "residency_scores.h"

class CachedLayer {
  public:
    CachedLayer(int64_t quota, Scores scores)
        : scores(std::move(scores)), quota_(quota), where_(this->scores.count(), -1), kept_(where_.size()) {}

    Scores scores;

    int32_t experts() const { return static_cast<int32_t>(where_.size()); }
    int32_t where(int32_t expert) const { return where_[expert]; }  // -1 for nowhere
    bool keeps(int32_t expert) const { return kept_[expert]; }
    bool has_room() const { return count_ < quota_; }

    void place(int32_t expert, int32_t slot) { where_[expert] = slot; }

    void keep(int32_t expert) {
        count_ += !kept_[expert];
        kept_[expert] = true;
    }

    void let_go(int32_t expert) {
        count_ -= kept_[expert];
        kept_[expert] = false;
    }

    // Whether it keeps an expert, or would if it was asked for now.
    bool worth_keeping(int32_t expert) const { return keeps(expert) || has_room() || worth_more(expert, least()); }

    // Than one that is kept; -1 for none.
    bool worth_more(int32_t expert, int32_t than) const { return than >= 0 && scores.of(expert) > scores.of(than); }

    // The expert of the lowest score that it keeps, of two the one of the lower number; -1 when there is none.
    int32_t least() const {
        int32_t found = -1;
        for (int32_t e = 0; e < experts(); ++e)
            if (kept_[e] && (found < 0 || scores.of(e) < scores.of(found))) found = e;
        return found;
    }

  private:
    int64_t quota_;
    std::vector<int32_t> where_;
    std::vector<bool> kept_;
    int64_t count_ = 0;
};
