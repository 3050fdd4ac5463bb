#!/bin/sh
# Installs what a build needs from outside of cargo, where it is missing:
#   vulkan   the loader, and a driver (Mesa's lavapipe runs on the CPU)
#   browser  Chromium, in which a test opens the report
# On Debian and Ubuntu as root or with sudo; elsewhere it says what to install.
set -eu

os=$( (. /etc/os-release && echo "$ID ${ID_LIKE:-}") 2>/dev/null || uname -s)
missing=""

say() { printf '%s\n' "$*" >&2; }

have_vulkan() {
    case "$os" in Darwin*) return 0 ;; esac
    (ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null) | grep -q 'libvulkan\.so\.1' || return 1
    for dir in ${VK_DRIVER_FILES:+"$(dirname "${VK_DRIVER_FILES%%:*}")"} \
        /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        ls "$dir"/*.json >/dev/null 2>&1 && return 0
    done
    return 1
}

have_browser() {
    [ -n "${CHROME:-}" ] && return 0
    case "$os" in Darwin*) [ -d "/Applications/Google Chrome.app" ] && return 0 ;; esac
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

command -v cargo >/dev/null 2>&1 || {
    say "Rust is missing. Install it from https://rustup.rs and run this again."
    exit 2
}
for part in "$@"; do
    case "$part" in
    vulkan) have_vulkan || missing="$missing mesa-vulkan-drivers libvulkan1" ;;
    browser) have_browser || missing="$missing chromium" ;;
    esac
done
[ -z "$missing" ] && exit 0

case "$os" in
*debian* | *ubuntu*)
    if [ "$(id -u)" = 0 ]; then as_root=""
    elif command -v sudo >/dev/null 2>&1; then as_root="sudo"
    else
        say "Missing:$missing. Without root or sudo they cannot be installed here; ask for:"
        say "  apt-get install$missing"
        exit 2
    fi
    say "Installing$missing"
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
        say "apt-get could not install:$missing. Ubuntu has Chromium as a snap only: install Chromium or Chrome"
        say "yourself and name its binary in the variable CHROME."
        exit 2
    }
    ;;
*fedora* | *rhel*) say "Missing:$missing. Install: sudo dnf install mesa-vulkan-drivers vulkan-loader chromium"; exit 2 ;;
*arch*) say "Missing:$missing. Install: sudo pacman -S vulkan-swrast vulkan-icd-loader chromium"; exit 2 ;;
*alpine*) say "Missing:$missing. Install: sudo apk add mesa-vulkan-swrast vulkan-loader chromium"; exit 2 ;;
*suse*) say "Missing:$missing. Install: sudo zypper install libvulkan_lvp libvulkan1 chromium"; exit 2 ;;
*)
    say "Missing:$missing. Install the Vulkan loader, a driver for your GPU or Mesa's lavapipe, and for the tests"
    say "Chromium or Chrome (the variable CHROME names its binary)."
    exit 2
    ;;
esac
