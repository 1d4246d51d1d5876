# Finds ONNX Runtime's C/C++ headers. Only headers are needed: the operator library receives the
# API table at run time and links nothing of ONNX Runtime.
#
# Tried in this order; the first that satisfies the API version wins:
#   1. the directory named by -DORT_TCONV_ORT_INCLUDE_DIR=... or the environment variable
#      of that name; if it is given and unusable, that is an error
#   2. an installed package: CMAKE_PREFIX_PATH, the active conda environment, system prefixes
#   3. what an earlier build downloaded, from the per-user cache
#   4. ONNX Runtime's release archive on GitHub
#   5. Debian 13's package libonnxruntime-dev, through this machine's own apt mirror
# -DORT_TCONV_DOWNLOAD=OFF stops after 3.
#
# The execution provider needs onnxruntime_ep_c_api.h, which is newer (API version 23).  The headers found
# above serve it, too, if they have it; otherwise those of its own version are looked for in the places 3 to
# 5, the suite after Debian 13 being the last.  Without them everything but the provider is built.

option(ORT_TCONV_DOWNLOAD "Download ONNX Runtime's headers when none are installed" ON)
set(ORT_TCONV_ORT_INCLUDE_DIR "" CACHE PATH "Directory that holds onnxruntime_cxx_api.h")

# The oldest ONNX Runtime we run on is 1.21, and a library built with newer headers asks an old
# runtime for no more than this, so any header from this version on will do.
set(ORT_TCONV_MIN_API 21)
# What is downloaded, when something has to be, and the SHA-256 of each header that we include: those of the
# release, which Debian's package has, too. Nothing else is kept of a download, whatever its source.
set(ORT_TCONV_ORT_VERSION 1.21.0)
set(ORT_TCONV_ORT_RELEASES https://github.com/microsoft/onnxruntime/releases/download)
set(ORT_TCONV_ORT_HEADERS
  onnxruntime_c_api.h=7783e9664bdb0b1b36145b5c8587dd1bc9a399aa000edf2e3dd03003cafc6882
  onnxruntime_cxx_api.h=b3b27d6a6fced0725e3f188379cca008b1d7a456997684756374d4b388f2cf05
  onnxruntime_cxx_inline.h=7f448e994c732eacd9e49900365fefa8f1ac998a6d6eb78e5f4aab1b8d9d8900
  onnxruntime_float16.h=6c4db3d1954b266c4febe413351af86cac922e3448538e7e452e51d646e56a4a)
set(ORT_TCONV_DEBIAN_SUITE trixie)

# The same for the execution provider, which uses the C API alone; programs that add it want the C++ API, too.
set(ORT_TCONV_PROVIDER_MIN_API 23)
set(ORT_TCONV_PROVIDER_ORT_VERSION 1.23.2)
set(ORT_TCONV_PROVIDER_ORT_HEADERS
  onnxruntime_c_api.h=71125e66180a991d65c9bdbad4aa20daaa1f7a48c7a5c0fa5f18f250ac839a02
  onnxruntime_ep_c_api.h=b92778f50c36ecdf53d0344e0129a78b306afed653f81bba8a9597e3e6e9546f
  onnxruntime_cxx_api.h=08ae3698d11d90590a0a777ad97e58172b8735fcbe27edcc8a7b94aa018e5de9
  onnxruntime_cxx_inline.h=226f883503ade7299f9474018a070dc94091c1541bcc6d419599eea0c2ee578e
  onnxruntime_float16.h=6c4db3d1954b266c4febe413351af86cac922e3448538e7e452e51d646e56a4a)
set(ORT_TCONV_PROVIDER_DEBIAN_SUITE forky)

# Sets <out> to the API version of the headers in `dir`, "" if they do not say.
function(_ort_tconv_api_version dir out)
  file(STRINGS "${dir}/onnxruntime_c_api.h" line REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" version "${line}")
  set(${out} "${version}" PARENT_SCOPE)
endfunction()

# Sets <out> to "" if `dir` holds usable headers, and to the reason otherwise.
function(_ort_tconv_check_headers dir out)
  if(NOT EXISTS "${dir}/onnxruntime_cxx_api.h" OR NOT EXISTS "${dir}/onnxruntime_c_api.h")
    set(${out} "no onnxruntime_cxx_api.h and onnxruntime_c_api.h in ${dir}" PARENT_SCOPE)
    return()
  endif()
  _ort_tconv_api_version("${dir}" version)
  if(NOT version)
    set(${out} "no ORT_API_VERSION in ${dir}/onnxruntime_c_api.h" PARENT_SCOPE)
  elseif(version LESS ORT_TCONV_MIN_API)
    set(${out} "${dir} is API version ${version}, ${ORT_TCONV_MIN_API} or newer is needed" PARENT_SCOPE)
  else()
    set(${out} "" PARENT_SCOPE)
  endif()
endfunction()

# Sets <out> to "" if `dir` holds the headers of ORT_TCONV_ORT_HEADERS, and to the reason otherwise.
function(_ort_tconv_verify_headers dir out)
  set(${out} "" PARENT_SCOPE)
  foreach(header IN LISTS ORT_TCONV_ORT_HEADERS)
    string(REGEX MATCH "^(.*)=(.*)$" ignored "${header}")
    set(path "${dir}/${CMAKE_MATCH_1}")
    set(wanted ${CMAKE_MATCH_2})
    if(NOT EXISTS "${path}")
      set(${out} "no ${path}" PARENT_SCOPE)
      return()
    endif()
    file(SHA256 "${path}" found)
    if(NOT found STREQUAL wanted)
      set(${out} "${path} has the SHA-256 ${found}, not ${wanted}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Sets <out> to the directory that keeps downloads between builds, "" if there is no home.
function(_ort_tconv_cache_dir out)
  if(DEFINED ENV{XDG_CACHE_HOME} AND IS_ABSOLUTE "$ENV{XDG_CACHE_HOME}")
    set(root "$ENV{XDG_CACHE_HOME}")
  elseif(DEFINED ENV{HOME} AND IS_DIRECTORY "$ENV{HOME}")
    set(root "$ENV{HOME}/.cache")
  else()
    set(root "${CMAKE_BINARY_DIR}")
  endif()
  set(${out} "${root}/ort-tconv/onnxruntime-headers-${ORT_TCONV_ORT_VERSION}" PARENT_SCOPE)
endfunction()

# Copies the verified headers in `dir` to `cache`. Through a temporary name, so that two builds at the
# same time, or one that is interrupted, never leave half a directory behind.
function(_ort_tconv_keep dir cache out)
  string(RANDOM LENGTH 8 suffix)
  foreach(header IN LISTS ORT_TCONV_ORT_HEADERS)
    string(REGEX REPLACE "=.*" "" name "${header}")
    file(COPY "${dir}/${name}" DESTINATION "${cache}.${suffix}")
  endforeach()
  if(NOT EXISTS "${cache}")
    file(RENAME "${cache}.${suffix}" "${cache}" RESULT ignored)
  endif()
  file(REMOVE_RECURSE "${cache}.${suffix}")
  _ort_tconv_verify_headers("${cache}" reason)
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()

function(_ort_tconv_fetch_release work out_dir out_reason)
  # The headers are the same in every archive; these are the ones that exist.
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(name onnxruntime-linux-aarch64-${ORT_TCONV_ORT_VERSION})
  else()
    set(name onnxruntime-linux-x64-${ORT_TCONV_ORT_VERSION})
  endif()
  set(url ${ORT_TCONV_ORT_RELEASES}/v${ORT_TCONV_ORT_VERSION}/${name}.tgz)
  message(STATUS "ONNX Runtime headers: trying ${url}")
  # The timeouts are short because a machine that cannot reach GitHub still has the next source.
  file(DOWNLOAD ${url} "${work}/release.tgz"
       TLS_VERIFY ON TIMEOUT 60 INACTIVITY_TIMEOUT 10 STATUS status)
  list(GET status 0 code)
  list(GET status 1 text)
  if(NOT code EQUAL 0)
    set(${out_reason} "${url}: ${text}" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} -E tar xzf release.tgz
                  WORKING_DIRECTORY "${work}" RESULT_VARIABLE code ERROR_VARIABLE text)
  if(NOT code EQUAL 0)
    set(${out_reason} "${url}: cannot unpack: ${text}" PARENT_SCOPE)
    return()
  endif()
  set(${out_dir} "${work}/${name}/include" PARENT_SCOPE)
  set(${out_reason} "" PARENT_SCOPE)
endfunction()

function(_ort_tconv_fetch_debian work out_dir out_reason)
  message(STATUS "ONNX Runtime headers: trying Debian's libonnxruntime-dev")
  execute_process(
    COMMAND sh "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/debian_packages.sh" "${work}/debian" ${ORT_TCONV_DEBIAN_SUITE}
            libonnxruntime-dev
    RESULT_VARIABLE code OUTPUT_VARIABLE text ERROR_VARIABLE text TIMEOUT 240)
  if(NOT code EQUAL 0)
    string(STRIP "${text}" text)
    string(REPLACE "\n" "\n      " text "${text}")
    set(${out_reason} "Debian's libonnxruntime-dev: ${text} (${code})" PARENT_SCOPE)
    return()
  endif()
  set(${out_dir} "${work}/debian/usr/include/onnxruntime" PARENT_SCOPE)
  set(${out_reason} "" PARENT_SCOPE)
endfunction()

# Looks for the headers of ORT_TCONV_ORT_VERSION, whose hashes are ORT_TCONV_ORT_HEADERS, in the cache and
# then in the sources of downloads, which the cache keeps.  Sets <out> to the directory, "" if there is
# none, and <out_tried> to the reasons.
function(_ort_tconv_download_headers out out_tried)
  set(tried "")
  _ort_tconv_cache_dir(cache)
  _ort_tconv_verify_headers("${cache}" reason)
  if(NOT reason)
    message(STATUS "ONNX Runtime headers: ${cache} (downloaded by an earlier build)")
    set(${out} "${cache}" PARENT_SCOPE)
    return()
  endif()
  list(APPEND tried "earlier download: ${reason}")
  # Something is there but is not usable: make room for a good copy.
  file(REMOVE_RECURSE "${cache}")

  if(ORT_TCONV_DOWNLOAD)
    set(work "${CMAKE_BINARY_DIR}/ort-headers-download")
    foreach(source IN ITEMS release debian)
      file(REMOVE_RECURSE "${work}")
      file(MAKE_DIRECTORY "${work}")
      cmake_language(CALL _ort_tconv_fetch_${source} "${work}" dir reason)
      if(NOT reason)
        _ort_tconv_verify_headers("${dir}" reason)
      endif()
      if(NOT reason)
        _ort_tconv_keep("${dir}" "${cache}" reason)
      endif()
      file(REMOVE_RECURSE "${work}")
      if(NOT reason)
        message(STATUS "ONNX Runtime headers: ${cache} (downloaded)")
        set(${out} "${cache}" PARENT_SCOPE)
        return()
      endif()
      list(APPEND tried "${reason}")
    endforeach()
  else()
    list(APPEND tried "downloads: switched off by ORT_TCONV_DOWNLOAD=OFF")
  endif()
  set(${out} "" PARENT_SCOPE)
  set(${out_tried} "${tried}" PARENT_SCOPE)
endfunction()

function(ort_tconv_find_ort_headers out)
  set(tried "")

  # 1. What the user says goes: falling back to other headers would hide a typing error.
  set(named "${ORT_TCONV_ORT_INCLUDE_DIR}")
  if(NOT named)
    set(named "$ENV{ORT_TCONV_ORT_INCLUDE_DIR}")
  endif()
  if(named)
    _ort_tconv_check_headers("${named}" reason)
    if(reason)
      message(FATAL_ERROR "ORT_TCONV_ORT_INCLUDE_DIR: ${reason}")
    endif()
    message(STATUS "ONNX Runtime headers: ${named} (ORT_TCONV_ORT_INCLUDE_DIR)")
    set(${out} "${named}" PARENT_SCOPE)
    return()
  endif()

  # 2. An installed package. Not cached: the next configure must see what is installed then.
  unset(_ort_tconv_installed CACHE)
  find_path(_ort_tconv_installed onnxruntime_cxx_api.h
            HINTS "$ENV{CONDA_PREFIX}/include"
            PATH_SUFFIXES onnxruntime onnxruntime/core/session include include/onnxruntime
                          include/onnxruntime/core/session)
  set(installed "${_ort_tconv_installed}")
  unset(_ort_tconv_installed CACHE)
  if(installed)
    _ort_tconv_check_headers("${installed}" reason)
    if(NOT reason)
      message(STATUS "ONNX Runtime headers: ${installed} (installed)")
      set(${out} "${installed}" PARENT_SCOPE)
      return()
    endif()
    list(APPEND tried "installed package: ${reason}")
  else()
    list(APPEND tried "installed package: no onnxruntime_cxx_api.h under CMAKE_PREFIX_PATH, CONDA_PREFIX or the system prefixes")
  endif()

  # 3., 4., 5.
  _ort_tconv_download_headers(found reasons)
  if(found)
    set(${out} "${found}" PARENT_SCOPE)
    return()
  endif()
  list(APPEND tried ${reasons})

  list(JOIN tried "\n  - " tried)
  message(FATAL_ERROR
    "No ONNX Runtime headers (API version ${ORT_TCONV_MIN_API} or newer). Tried:\n  - ${tried}\n"
    "Do one of these and build again:\n"
    "  - unpack any ONNX Runtime release >= 1.21 and set the environment variable\n"
    "    ORT_TCONV_ORT_INCLUDE_DIR to its include directory\n"
    "  - install them: 'apt install libonnxruntime-dev' (Debian 13 or newer),\n"
    "    'conda install -c conda-forge onnxruntime-cpp'\n"
    "  - build without the operator library: -DORT_TCONV_BUILD_OP=OFF (C++ core and tests only)")
endfunction()

# Sets <out> to the directory of headers with which the execution provider can be built, "" if there are
# none.  `operator_headers` are those of the operator.
function(ort_tconv_find_provider_headers operator_headers out)
  if(EXISTS "${operator_headers}/onnxruntime_ep_c_api.h")
    _ort_tconv_api_version("${operator_headers}" version)
    if(NOT version LESS ORT_TCONV_PROVIDER_MIN_API)
      set(${out} "${operator_headers}" PARENT_SCOPE)
      return()
    endif()
  endif()
  set(ORT_TCONV_ORT_VERSION ${ORT_TCONV_PROVIDER_ORT_VERSION})
  set(ORT_TCONV_ORT_HEADERS ${ORT_TCONV_PROVIDER_ORT_HEADERS})
  set(ORT_TCONV_DEBIAN_SUITE ${ORT_TCONV_PROVIDER_DEBIAN_SUITE})
  _ort_tconv_download_headers(found tried)
  if(NOT found)
    list(PREPEND tried "headers of the operator: no onnxruntime_ep_c_api.h of API version ${ORT_TCONV_PROVIDER_MIN_API} or newer in ${operator_headers}")
    list(JOIN tried "\n    - " tried)
    message(STATUS "Execution provider: left out, it needs the headers of ONNX Runtime 1.23 or newer.  Tried:\n    - ${tried}")
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()
