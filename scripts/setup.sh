# Sourced by the other scripts: a virtual environment in .venv with ragkit and the extras given.
# Installs only when the environment is missing or what it was made from has changed.
#
#   RAGKIT_VENV    another place for the environment
#   RAGKIT_PYTHON  the Python to make it with (3.11 or newer)

ragkit_setup() {
  local extras="$1" python="${RAGKIT_PYTHON:-python3}"
  local venv="${RAGKIT_VENV:-.venv}"
  local marker="$venv/.ragkit-$extras" stamp
  stamp=$(cat pyproject.toml constraints.txt | cksum)
  if [ ! -f "$marker" ] || [ "$(cat "$marker")" != "$stamp" ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "ragkit needs Python 3.11 or newer; $("$python" --version) is $python (set RAGKIT_PYTHON)" >&2
      return 1
    }
    echo "setting up $venv with ragkit[$extras]: one to four minutes, once" >&2
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -c constraints.txt -e ".[$extras]"
    echo "$stamp" > "$marker"
    echo "set up in $SECONDS s" >&2
  fi
  PATH="$(cd "$venv/bin" && pwd):$PATH"
  export PATH
}
