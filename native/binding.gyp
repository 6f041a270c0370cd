{
  # SPDX-License-Identifier: Apache-2.0
  # The addon: npm run build:addon. For the sanitizer builds of CI add -- -Dsanitize=address or =thread.
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "blockferry",
      "sources": ["<!@(node -p \"require('fs').readdirSync('src').filter(f => f.endsWith('.cc')).map(f => 'src/' + f).join(' ')\")"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_DEPRECATED", "NAPI_DISABLE_CPP_EXCEPTIONS",
                  # JavaScript may not run any more in a worker that is being ended.
                  "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "_GNU_SOURCE"],
      "cflags": ["-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
      "cflags_cc!": ["-std=gnu++14"],
      "cflags_cc": ["-std=gnu++17", "-O3"],
      # A worker that ends must not unmap code in which a stuck call still stands.
      "ldflags": ["-Wl,-z,nodelete", "-pthread"],
      "conditions": [
        ["sanitize=='address'", {
          "defines": ["BLOCKFERRY_PLAIN_THREADS"],
          "cflags": ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"],
          "ldflags": ["-fsanitize=address,undefined"]
        }],
        ["sanitize=='thread'", {
          "defines": ["BLOCKFERRY_PLAIN_THREADS"],
          "cflags": ["-fsanitize=thread", "-fno-omit-frame-pointer", "-g"],
          "ldflags": ["-fsanitize=thread"]
        }]
      ]
    }
  ]
}
