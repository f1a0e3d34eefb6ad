// Who is worth a slot (workers/triptych/experts/cache/scores.py): the same doubles, bit for bit.

#pragma once

#include <cstdint>
#include <vector>

enum class Policy : int64_t { LastUse, DecayedUses, Fixed };

class Scores {
  public:
    Scores(Policy policy, const double* values, int64_t count, double steps, double decay, double worth)
        : policy_(policy), values_(values, values + count), steps_(steps), decay_(decay), worth_(worth) {}

    void touch(const std::vector<int32_t>& experts) {
        switch (policy_) {
            case Policy::LastUse:
                steps_ += 1.0;
                for (const int32_t expert : experts) values_[expert] = steps_;
                break;
            case Policy::DecayedUses:
                for (const int32_t expert : experts) values_[expert] += worth_;
                worth_ /= decay_;
                if (worth_ > kLarge) {
                    worth_ *= kSmall;
                    for (double& value : values_) value *= kSmall;
                }
                break;
            case Policy::Fixed: break;
        }
    }

    // Every place has what another one had before, 0 where that is -1.
    void move(const int64_t* from) {
        const std::vector<double> before = values_;
        for (size_t i = 0; i < values_.size(); ++i) values_[i] = from[i] < 0 ? 0.0 : before[from[i]];
    }

    double of(int64_t expert) const { return values_[expert]; }
    int64_t count() const { return static_cast<int64_t>(values_.size()); }

  private:
    static constexpr double kLarge = 1e100, kSmall = 1e-100;

    Policy policy_;
    std::vector<double> values_;
    double steps_, decay_, worth_;
};
